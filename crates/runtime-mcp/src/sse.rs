//! Server-sent events: bytes in, bounded events out. Pure.

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The id, if it set one.
    pub(crate) id: Option<String>,
    /// After how many milliseconds to come back, if it said so.
    pub(crate) retry: Option<u64>,
    /// The lines of data, joined.
    pub(crate) data: Vec<u8>,
}

/// An event, or line, over the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// The bytes of an id that are kept; a longer one counts as none.
const ID_BYTES_MAX: usize = 4096;

/// Collects events of at most so many bytes.
#[derive(Debug)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    event: Event,
    bytes_max: usize,
    /// The last byte ended a line by a CR: a LF that follows belongs to it.
    after_return: bool,
    started: bool,
}

impl EventReader {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Event::default(),
            bytes_max,
            after_return: false,
            started: false,
        }
    }

    /// Takes bytes as they come and returns the events that they complete.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    self.end_line(&mut events);
                }
                _ => {
                    if self.line.len() + self.event.data.len() >= self.bytes_max {
                        return Err(TooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if event != Event::default() {
                // The last line has no end of its own.
                event.data.pop();
                events.push(event);
            }
            return;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.event.data.extend_from_slice(value);
                self.event.data.push(b'\n');
            }
            b"id" => {
                let id = std::str::from_utf8(value).ok();
                let usable = |id: &&str| id.len() <= ID_BYTES_MAX && !id.contains('\0');
                self.event.id = id.filter(usable).map(str::to_owned);
            }
            b"retry" => {
                let text = std::str::from_utf8(value).ok();
                self.event.retry = text.and_then(|text| text.parse().ok());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Event> {
        let mut reader = EventReader::new(64);
        let events = chunks
            .iter()
            .flat_map(|chunk| reader.take(chunk).expect("small"));
        events.collect()
    }

    fn data(events: &[Event]) -> Vec<&[u8]> {
        events.iter().map(|event| event.data.as_slice()).collect()
    }

    #[test]
    fn m9_events_are_the_same_however_they_are_cut() {
        let stream = b"\xef\xbb\xbf: hello\nid: 7\nretry: 500\ndata: a\ndata:b\n\nevent: x\r\ndata: c\r\n\r\ndata: lost";
        let whole = all(&[stream]);
        assert_eq!(data(&whole), [&b"a\nb"[..], b"c"]);
        assert_eq!(
            (whole[0].id.as_deref(), whole[0].retry),
            (Some("7"), Some(500))
        );
        for cut in 1..stream.len() {
            assert_eq!(all(&[&stream[..cut], &stream[cut..]]), whole, "{cut}");
        }
    }

    #[test]
    fn m9_an_event_without_data_still_says_where_it_stands() {
        let primed = all(&[b"id: p\ndata:\n\n"]);
        assert_eq!(
            (primed[0].id.as_deref(), primed[0].data.len()),
            (Some("p"), 0)
        );
        assert!(all(&[b"\n\n\n: nothing\n\n"]).is_empty());
    }

    #[test]
    fn x4_neither_a_line_nor_an_event_can_grow_over_its_limit() {
        assert_eq!(EventReader::new(64).take(&[b'x'; 65]), Err(TooLarge));
        let mut reader = EventReader::new(64);
        let grown = (0..100).try_for_each(|_| reader.take(b"data: xx\n").map(|_| ()));
        assert_eq!(grown, Err(TooLarge));
    }
}
