//! Writers whose commits can be counted afterwards, in this process or in one of its children.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use runtime_core::{Clock as _, CommitId, EventId, Random as _, StreamKey};
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::{
    Commit, NewEvent, Page, Position, Seq, Store, StoredEvent, SystemClock, SystemRandom,
};

/// A commit of one event that says who wrote it and as which; in the writer's own stream and in
/// one that all share.
pub(crate) fn commit(writer: &str, number: u64, padding: usize) -> Commit {
    let now = SystemClock::new().now();
    let stream = |key: &str| StreamKey::new(key).expect("a stream key");
    let mut body = format!("{writer} {number} ").into_bytes();
    body.resize(body.len() + padding, b'.');
    Commit::new(CommitId::generate(now, SystemRandom.ten()), now).event(NewEvent {
        id: EventId::generate(now, SystemRandom.ten()),
        streams: vec![stream(writer), stream("all")],
        closes: false,
        body: body.into(),
    })
}

/// Who wrote an event, and as which.
pub(crate) fn author(event: &StoredEvent) -> (String, u64) {
    let text = String::from_utf8_lossy(&event.body);
    let mut words = text.split(' ');
    let writer = words.next().expect("a writer").to_owned();
    let number = words.next().expect("a number").parse().expect("a number");
    (writer, number)
}

/// Reads the whole log.
pub(crate) async fn log(store: &dyn Store) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store.events(None, Page::after(after, 256)).await;
        let page = page.expect("a page");
        events.extend(page.events);
        after = page.next;
        if !page.has_more {
            return events;
        }
    }
}

/// Follows the log until every author of `wanted` has been seen; returns what was seen, in order.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    ended: tokio::sync::watch::Receiver<u64>,
) -> Vec<StoredEvent> {
    let mut seen = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store
            .events(None, Page::after(after, 64))
            .await
            .expect("a page");
        seen.extend(page.events);
        after = page.next;
        let end = *ended.borrow();
        if end > 0 && after.0 >= end && !page.has_more {
            return seen;
        }
        if !page.has_more {
            let changed = store.changed(after);
            let _woken = tokio::time::timeout(std::time::Duration::from_millis(200), changed).await;
        }
    }
}

/// Says what is wrong with a log: holes in its positions or in a stream, an event twice, an
/// acknowledged one missing.
pub(crate) fn faults(log: &[StoredEvent], acknowledged: &HashSet<(String, u64)>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seqs: HashMap<&StreamKey, u64> = HashMap::new();
    let mut authors = HashSet::new();
    for (index, event) in log.iter().enumerate() {
        if event.position.0 != index as u64 + 1 {
            faults.push(format!(
                "position {} stands at {}",
                event.position,
                index + 1
            ));
        }
        for place in &event.places {
            let seq = seqs.entry(&place.stream).or_default();
            *seq += 1;
            if place.seq != Seq(*seq) {
                faults.push(format!(
                    "{} has {} where {seq} follows",
                    place.stream, place.seq
                ));
            }
        }
        if !authors.insert(author(event)) {
            faults.push(format!("{:?} is there twice", author(event)));
        }
    }
    let lost = acknowledged.difference(&authors);
    faults.extend(lost.map(|lost| format!("{lost:?} is acknowledged and not there")));
    faults
}

const CHILD: &str = "RUNTIME_POSTGRES_TEST_CHILD";

/// What a child is told.
pub(crate) struct ChildTask {
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) writers: usize,
    pub(crate) padding: usize,
}

impl ChildTask {
    /// Starts this test binary again, as a writer.
    pub(crate) fn start(&self) -> Child {
        let this = std::env::current_exe().expect("the test binary");
        let task = format!(
            "{} {} {} {}",
            self.url, self.name, self.writers, self.padding
        );
        Command::new(this)
            .args(["--exact", "load::as_a_child", "--nocapture"])
            .env(CHILD, task)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child")
    }
}

/// Reads what a child has acknowledged until it ends, as `ack WRITER NUMBER` lines.
pub(crate) fn acknowledgements(output: ChildStdout) -> HashSet<(String, u64)> {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    let read = |line: String| {
        let line = line.split("ack ").nth(1)?.to_owned();
        let (writer, number) = line.split_once(' ')?;
        Some((writer.to_owned(), number.trim().parse().ok()?))
    };
    lines.filter_map(read).collect()
}

/// Not a test of its own: what a child of another test does.
#[test]
fn as_a_child() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let words: Vec<&str> = task.split(' ').collect();
    let (url, name) = (words[0].to_owned(), words[1].to_owned());
    let writers: usize = words[2].parse().expect("a number");
    let padding: usize = words[3].parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("threads").block_on(async {
        let options = PostgresOptions::new(&url).expect("a URL");
        let store = Arc::new(PostgresStore::open(options).await.expect("a store"));
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let (store, name) = (Arc::clone(&store), format!("{name}-{writer}"));
            tasks.spawn(async move {
                for number in 1.. {
                    let committed = store.commit(commit(&name, number, padding)).await;
                    assert!(!committed.expect("an append").repeated);
                    println!("ack {name} {number}");
                }
            });
        }
        // Until somebody kills it.
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no append fails");
        }
    });
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status();
    assert!(sent.expect("kill is there").success(), "{name}");
}
