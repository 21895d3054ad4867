//! The terminal as a screen: raw keys in, whole frames out.

use std::io::{self, Read, Write};

use rustix::termios::{self, OptionalActions, Termios};
use tokio::sync::mpsc;

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Character(char),
    Up,
    Down,
    /// Ctrl-C: the terminal sends no signal while keys are raw.
    Interrupt,
}

/// Reads the keys of some bytes as a terminal sends them; what is none of ours is left out.
pub(crate) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (3, _) => keys.push(Key::Interrupt),
            (0x1b, [b'[' | b'O', code, after @ ..]) => {
                bytes = after;
                match code {
                    b'A' => keys.push(Key::Up),
                    b'B' => keys.push(Key::Down),
                    _ => {}
                }
            }
            (character, _) if character.is_ascii_graphic() => {
                keys.push(Key::Character(char::from(character)));
            }
            _ => {}
        }
    }
    keys
}

/// A terminal that shows frames instead of lines; as it was before, once this is dropped.
pub(crate) struct Screen {
    before: Termios,
}

impl Screen {
    /// Takes the terminal of this process.
    pub(crate) fn open() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let screen = Self { before };
        // The other screen, without a cursor.
        write("\u{1b}[?1049h\u{1b}[?25l")?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (usize, usize) {
        match termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => (80, 24),
        }
    }

    /// Shows a frame in place of the one before, without a flicker.
    pub(crate) fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut frame = String::from("\u{1b}[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                frame.push_str("\r\n");
            }
            frame.push_str(line);
            frame.push_str("\u{1b}[K");
        }
        frame.push_str("\u{1b}[J");
        write(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\u{1b}[?25h\u{1b}[?1049l");
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The keys that are pressed from now on. The thread ends with the process: a blocked read of a
/// terminal cannot be taken back.
pub(crate) fn pressed() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok(count) = io::stdin().lock().read(&mut bytes) {
            if count == 0 {
                return;
            }
            for key in keys(&bytes[..count]) {
                if sender.blocking_send(key).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_terminals_send_them() {
        assert_eq!(keys(b"a"), [Key::Character('a')]);
        assert_eq!(
            keys(b"\x1b[A\x1b[Bq"),
            [Key::Up, Key::Down, Key::Character('q')]
        );
        assert_eq!(keys(b"\x1bOA"), [Key::Up]);
        assert_eq!(keys(&[3]), [Key::Interrupt]);
        assert_eq!(keys(b"\x1b[5~ \r\xc3\xa9"), [Key::Character('~')]);
        assert_eq!(keys(b"\x1b"), []);
    }
}
