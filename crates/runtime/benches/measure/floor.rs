//! The floor: what any store must do, and nothing else. Writers hand records to one thread that
//! appends what is queued and syncs once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Figures, Outcome, Plan, Progress, Written, observe};

/// One record: 300 bytes of a body and a small header.
const RECORD_BYTES: usize = 320;
const GROUP_MAX: usize = 1024;

type Handed = (Vec<u8>, oneshot::Sender<()>);

struct Appender {
    queue: Sender<Handed>,
    counts: Arc<Counts>,
    thread: JoinHandle<std::io::Result<()>>,
}

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Appender {
    fn start(directory: &Path) -> Outcome<Self> {
        let file = File::create(directory.join("floor"))?;
        let (queue, waiting) = channel();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = std::thread::spawn(move || append(file, &waiting, &shared));
        Ok(Self {
            queue,
            counts,
            thread,
        })
    }
}

fn append(mut file: File, waiting: &Receiver<Handed>, counts: &Counts) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut replies = Vec::new();
    while let Ok(first) = waiting.recv() {
        for (record, reply) in std::iter::once(first)
            .chain(waiting.try_iter())
            .take(GROUP_MAX)
        {
            bytes.extend(record);
            replies.push(reply);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        counts.syncs.fetch_add(1, Ordering::Relaxed);
        counts
            .bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes.clear();
        for reply in replies.drain(..) {
            // A writer that stopped does not wait any more.
            let _ = reply.send(());
        }
    }
    Ok(())
}

/// Runs the floor with that many writers.
pub(crate) async fn run(plan: &Plan, directory: &Path, writers: usize) -> Outcome<Figures> {
    let Appender {
        queue,
        counts,
        thread,
    } = Appender::start(directory)?;
    let progress = Arc::new(Progress::default());
    let handles = (0..writers).map(|_| {
        let (queue, progress) = (queue.clone(), Arc::clone(&progress));
        tokio::spawn(async move {
            loop {
                let (reply, answer) = oneshot::channel();
                queue.send((vec![7; RECORD_BYTES], reply))?;
                answer.await?;
                if !progress.count() {
                    return Ok(());
                }
            }
        })
    });
    let handles = handles.collect();
    let figures = observe(plan, &progress, handles, || Written {
        syncs: counts.syncs.load(Ordering::Relaxed),
        bytes: counts.bytes.load(Ordering::Relaxed),
    })
    .await?;
    drop(queue);
    thread.join().map_err(|_| "the floor panicked")??;
    Ok(figures)
}
