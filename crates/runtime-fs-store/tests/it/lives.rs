//! A process that runs effects over a store and tells what was acknowledged, and what must hold
//! once it has been killed.
//!
//! The process is this test binary again. Its turns run steps one after another; each step first
//! writes a line to a ledger (what happened outside), then answers. Every second step is declared
//! retry-safe. Whoever comes after the kill opens the store, lets the same turns go on in its own
//! process, and compares.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use runtime_core::{
    Classified, Clock, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome,
    EffectOutput, EventDraft, EventKind, ExecutionScope, Random, ReplayKey,
};
use runtime_effects::{
    EffectController, EffectHost, EffectLimits, Interrupt, LocalExecutor, PendingKind, Projection,
    Projector, ScopeOpening, StoreEffectHost,
};
use runtime_fs_store::{FsLimits, FsStore, FsStoreOptions};
use runtime_store::{
    Commit, CommitError, Epoch, Guard, Page, ReadError, RowChange, RowKey, Store, SystemClock,
    SystemRandom,
};
use serde_json::json;

/// The turns that a process runs at once.
pub(crate) const TURNS: usize = 4;
/// A process that nobody kills ends by itself.
const STEPS_MAX: u64 = 2_000;
const STEPS: &str = "FS_STORE_LIFE_STEPS";
const PLACE: &str = "FS_STORE_LIFE";
const SEGMENT_BYTES: &str = "FS_STORE_LIFE_SEGMENT_BYTES";
const NUMBER: &str = "FS_STORE_LIFE_NUMBER";
const FAULT: &str = "FS_STORE_LIFE_FAULT";

/// What is planted, to see that the comparison finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A step is acknowledged before it is committed.
    TellsEarly,
    /// Whoever comes after does not find the records of the process that was killed.
    Forgets,
    /// Steps that must not run again are declared retry-safe.
    RunsAgain,
}

impl Fault {
    const ALL: [Self; 3] = [Self::TellsEarly, Self::Forgets, Self::RunsAgain];
}

/// Where a process lives, and how large its segments are: of tiny ones a few commits begin a new
/// one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) segment_bytes: u64,
}

impl<'a> Place<'a> {
    pub(crate) const fn tiny(directory: &'a Path) -> Self {
        Self {
            directory,
            segment_bytes: 1024,
        }
    }

    pub(crate) fn options(self) -> FsStoreOptions {
        FsStoreOptions {
            fs_limits: FsLimits {
                segment_bytes_first: self.segment_bytes,
                segment_bytes_max: self.segment_bytes,
                ..FsLimits::default()
            },
            ..FsStoreOptions::new(disk(self.directory).join("store"))
        }
    }
}

/// What the store lies in; the ledger lies beside it, as if it were elsewhere.
pub(crate) fn disk(place: &Path) -> PathBuf {
    let disk = place.join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    disk
}

fn ledger_path(place: &Path) -> PathBuf {
    place.join("ledger")
}

/// One turn of one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Turn {
    life: u64,
    turn: usize,
}

impl Turn {
    fn scope(self, fault: Option<Fault>, epoch: u64) -> ExecutionScope {
        let forgets = fault == Some(Fault::Forgets) && epoch > 1;
        let name = if forgets { "other" } else { "life" };
        ExecutionScope::Turn {
            session: format!("{name}-{}", self.turn).parse().unwrap(),
            turn: self.life.to_string().parse().unwrap(),
        }
    }

    fn line(self, step: u64) -> String {
        format!("{} {} {step}", self.life, self.turn)
    }
}

/// One step of a turn is retry-safe, the next is not.
const fn is_retry_safe(step: u64) -> bool {
    step.is_multiple_of(2)
}

fn key(step: u64) -> ReplayKey {
    ReplayKey::step("step", u32::try_from(step).unwrap()).unwrap()
}

fn host(store: &Arc<FsStore>) -> StoreEffectHost {
    StoreEffectHost::new(
        Arc::clone(store) as Arc<dyn Store>,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    )
}

/// Opens the next epoch of a turn.
async fn next_epoch(store: &FsStore, scope: &ExecutionScope) -> Result<Epoch, CommitError> {
    let key = RowKey::epoch(scope.scope_id());
    let version = store.row(&key).await.unwrap().map(|row| row.version);
    let guard = match version {
        None => Guard::Absent(key.clone()),
        Some(version) => Guard::Version(key.clone(), version),
    };
    let now = SystemClock::new().now();
    let commit = Commit::new(CommitId::generate(now, SystemRandom.ten()), now)
        .guard(guard)
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await?;
    Ok(Epoch(version.unwrap_or(0) + 1))
}

/// Runs one step; says besides whether it ran or was answered from the record.
async fn step(
    controller: &dyn EffectController,
    scope: &ExecutionScope,
    (turn, step): (Turn, u64),
    ledger: &File,
    fault: Option<Fault>,
) -> (Result<EffectOutcome, Interrupt>, bool) {
    let command = EffectCommand::DurableStep {
        name: "step".to_owned(),
        input: None,
    };
    let retry_safe = is_retry_safe(step) || fault == Some(Fault::RunsAgain);
    let envelope = EffectEnvelope::new(scope.clone(), key(step), command).unwrap();
    let ran = AtomicBool::new(false);
    let executor = LocalExecutor::new(EffectKind::DurableStep, |_| {
        ran.store(true, Ordering::Relaxed);
        let line = format!("{}\n", turn.line(step));
        async move {
            let mut ledger = ledger;
            // One write, so that a kill leaves all of the line or nothing.
            ledger.write_all(line.as_bytes()).unwrap();
            tokio::task::yield_now().await;
            Ok(EffectOutput::DurableStep {
                value: json!(turn.line(step)),
            })
        }
    });
    let result = controller
        .execute_effect(envelope.retry_safe(retry_safe), executor)
        .await;
    (result, ran.into_inner())
}

/// One event for each record of an effect.
#[derive(Debug)]
struct OneEvent;

impl Projector for OneEvent {
    fn outcome(&self, effect: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        told(effect, EventKind::EffectFinished)
    }

    fn started(&self, effect: &EffectEnvelope) -> Projection {
        told(effect, EventKind::EffectStarted)
    }
}

fn told(effect: &EffectEnvelope, kind: EventKind) -> Projection {
    Projection {
        carrier: EventDraft::new(kind).in_scope(effect.scope()),
        further: Vec::new(),
    }
}

fn ledger(place: &Path) -> File {
    let mut options = OpenOptions::new();
    let opened = options.create(true).append(true).open(ledger_path(place));
    opened.unwrap()
}

/// In the process that is to be killed: lives and says true. Elsewhere it says false.
pub(crate) fn lives_here() -> bool {
    let Some(directory) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return false;
    };
    let place = Place {
        directory: &directory,
        segment_bytes: std::env::var(SEGMENT_BYTES).unwrap().parse().unwrap(),
    };
    let life = std::env::var(NUMBER).unwrap().parse().unwrap();
    let fault = std::env::var(FAULT).ok();
    let fault = Fault::ALL
        .into_iter()
        .find(|planted| fault == Some(format!("{planted:?}")));
    crate::support::run(live(place, life, fault));
    true
}

/// Tells a line; ends the process when nobody listens any more.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

async fn live(place: Place<'_>, life: u64, fault: Option<Fault>) {
    // The first line of a test has no end yet.
    tell("");
    let store = match FsStore::open(&place.options()) {
        Ok(store) => Arc::new(store),
        Err(error) => return tell(&format!("refused {}", error.code())),
    };
    let host = host(&store);
    let ledger = ledger(place.directory);
    let turns = (0..TURNS).map(|turn| drive(&store, &host, &ledger, Turn { life, turn }, fault));
    let mut turns: Vec<_> = turns.map(Box::pin).collect();
    let first_failure = std::future::poll_fn(|context| {
        for turn in &mut turns {
            if let Poll::Ready(failure) = turn.as_mut().poll(context) {
                return Poll::Ready(failure);
            }
        }
        Poll::Pending
    })
    .await;
    if let Some(failure) = first_failure {
        tell(&format!("failed {failure}"));
        // A store that has failed takes nothing more (S5).
        let scope = Turn { life, turn: TURNS }.scope(None, 1);
        match next_epoch(&store, &scope).await {
            Ok(_) => tell("then taken"),
            Err(error) => tell(&format!("then {}", error.code())),
        }
    }
    tell("ended");
}

/// Runs the steps of a turn and tells each that is acknowledged; gives the code of the failure
/// that ended it.
async fn drive(
    store: &FsStore,
    host: &StoreEffectHost,
    ledger: &File,
    turn: Turn,
    fault: Option<Fault>,
) -> Option<String> {
    let code = |error: &dyn Classified| error.to_wire().code;
    let scope = turn.scope(fault, 1);
    let epoch = match next_epoch(store, &scope).await {
        Ok(epoch) => epoch,
        Err(error) => return Some(code(&error)),
    };
    let opening = ScopeOpening::new(scope.clone(), epoch, Arc::new(OneEvent));
    let controller = host.scoped(opening).unwrap();
    let steps = std::env::var(STEPS).map_or(STEPS_MAX, |text| text.parse().unwrap());
    for number in 0..steps {
        if fault == Some(Fault::TellsEarly) {
            tell(&format!("done {}", turn.line(number)));
        }
        let (result, _) = step(&*controller, &scope, (turn, number), ledger, fault).await;
        match result {
            Ok(_) => tell(&format!("done {}", turn.line(number))),
            Err(error) => return Some(code(&error)),
        }
    }
    None
}

/// The command that starts a life. `before` runs it, such as a tracer; the test of this name must
/// begin with [`lives_here`].
pub(crate) fn command(
    before: &[String],
    test: &str,
    place: Place<'_>,
    life: u64,
    fault: Option<Fault>,
) -> Command {
    let own = std::env::current_exe().unwrap().display().to_string();
    let mut words = before.iter().cloned().chain([own]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(PLACE, place.directory)
        .env(SEGMENT_BYTES, place.segment_bytes.to_string())
        .env(NUMBER, life.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(fault) = fault {
        command.env(FAULT, format!("{fault:?}"));
    }
    command
}

/// Lets a life end by itself after so many steps of a turn.
pub(crate) fn ends_after(command: &mut Command, steps: u64) -> &mut Command {
    command.env(STEPS, steps.to_string())
}

/// What a life has told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// For each turn, how many steps were acknowledged.
    done: [u64; TURNS],
    /// How it failed, and what the store said to the next commit.
    pub(crate) failures: Vec<String>,
    pub(crate) ended: bool,
}

impl Told {
    /// Takes a line; says whether it is an acknowledgement.
    fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["done", _, turn, step] => {
                let (turn, step): (usize, u64) = (turn.parse().unwrap(), step.parse().unwrap());
                self.done[turn] = self.done[turn].max(step + 1);
                return true;
            }
            ["refused" | "failed" | "then", _] => self.failures.push(line.to_owned()),
            ["ended"] => self.ended = true,
            _ => {}
        }
        false
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.done.iter().sum()
    }
}

/// Listens to a life until so many steps are acknowledged, then calls `then`, and listens until
/// nothing more comes.
pub(crate) fn listen(child: &mut Child, after: u64, then: impl FnOnce(&mut Child)) -> Told {
    let mut told = Told::default();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut count = 0;
    while count < after {
        let Some(Ok(line)) = lines.next() else { break };
        count += u64::from(told.take(&String::from_utf8_lossy(&line)));
    }
    then(child);
    // A line that was cut off was not told: the last has no end then.
    for line in lines.map_while(Result::ok) {
        told.take(&String::from_utf8_lossy(&line));
    }
    told
}

/// What was found after a life.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Found {
    /// Steps whose records were there.
    pub(crate) recorded: u64,
    /// Steps that had begun, of which nobody knows whether they happened; all were reported.
    pub(crate) in_doubt: u64,
    /// Retry-safe steps that had begun and ran again.
    pub(crate) again: u64,
}

impl Found {
    pub(crate) fn add(&mut self, other: Self) {
        self.recorded += other.recorded;
        self.in_doubt += other.in_doubt;
        self.again += other.again;
    }
}

/// Opens what a life left behind, lets its turns go on, and says what was lost or ran again.
pub(crate) fn look(
    place: Place<'_>,
    life: u64,
    told: &Told,
    fault: Option<Fault>,
) -> Result<Found, String> {
    crate::support::run(look_async(place, life, told, fault))
}

async fn look_async(
    place: Place<'_>,
    life: u64,
    told: &Told,
    fault: Option<Fault>,
) -> Result<Found, String> {
    let store = FsStore::open(&place.options()).map_err(|error| error.to_string())?;
    if !store.report().damage.is_empty() {
        return Err(format!("damage: {:?}", store.report().damage));
    }
    let mut found = Found::default();
    let store = Arc::new(store);
    let host = host(&store);
    let before = executions(place.directory);
    let appended = ledger(place.directory);
    for turn in 0..TURNS {
        let turn = Turn { life, turn };
        let scope = turn.scope(fault, 2);
        let epoch = next_epoch(&store, &scope)
            .await
            .map_err(|error| error.to_string())?;
        let opening = ScopeOpening::new(scope.clone(), epoch, Arc::new(OneEvent));
        let controller = host.scoped(opening).unwrap();
        let mut number = 0;
        loop {
            let (result, ran) = step(&*controller, &scope, (turn, number), &appended, fault).await;
            let begun = before.get(&turn.line(number)).copied().unwrap_or_default();
            let acknowledged = number < told.done[turn.turn];
            let line = turn.line(number);
            if acknowledged && (ran || result.is_err()) {
                return Err(format!(
                    "{line} was acknowledged: {result:?}, ran again: {ran}"
                ));
            }
            if ran && begun > 0 && !is_retry_safe(number) {
                return Err(format!("{line} ran again and must not"));
            }
            match result {
                Ok(outcome) if !ran => {
                    let value = json!(line);
                    let expected = EffectOutcome::Completed(EffectOutput::DurableStep { value });
                    if outcome != expected || begun != 1 {
                        return Err(format!("{line}: {outcome:?}, executed {begun} times"));
                    }
                    found.recorded += 1;
                }
                // It goes on from here.
                Ok(_) => {
                    found.again += begun;
                    break;
                }
                Err(Interrupt::InDoubt { key }) => {
                    is_reported(&host, &scope, &key).await?;
                    found.in_doubt += 1;
                    break;
                }
                Err(error) => return Err(format!("{line}: {error}")),
            }
            number += 1;
        }
    }
    store.close().await.map_err(|error| error.to_string())?;
    Ok(found)
}

/// How often each line is in the ledger.
fn executions(place: &Path) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    let text = std::fs::read_to_string(ledger_path(place)).unwrap_or_default();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// Checks that an effect in doubt is in the list of what waits for somebody (E7).
async fn is_reported(
    host: &StoreEffectHost,
    scope: &ExecutionScope,
    key: &ReplayKey,
) -> Result<(), String> {
    let page = host
        .pending_of(&scope.scope_id(), Page::after(None, 256))
        .await
        .map_err(|error: ReadError| error.to_string())?;
    let reported = page
        .items
        .iter()
        .any(|item| item.kind == PendingKind::InDoubt && item.key == *key);
    match reported {
        true => Ok(()),
        false => Err(format!("{key} is in doubt and not reported")),
    }
}
