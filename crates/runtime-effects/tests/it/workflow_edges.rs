//! What the laws leave out of how an instance drives processes: what it takes, what fails, how it
//! closes (E5, E9, E15).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    Classified, Clock, ErrorClass, ProcessId, ProcessInput, ProcessOutcome, ProcessRegistration,
    ProcessStatus, RecoveryDisposition, WireError,
};
use runtime_effects::{
    Failure, Functions, ProcessLimits, ProcessRunner, Processes, StoreEffectHost, WorkflowConfig,
    WorkflowContext, WorkflowHost,
};
use runtime_testkit::SeededRandom;
use runtime_testkit::effect_laws::World;
use serde_json::{Value, json};

use crate::laws::Memory;

/// How often everything is given a turn before time may move on.
const TURNS: usize = 24;

/// A world, and in it the host of an instance; its tasks go on while a test waits.
pub(crate) struct Office<'fixture> {
    pub(crate) world: World<'fixture>,
    pub(crate) host: StoreEffectHost,
    pub(crate) processes: Processes,
}

impl<'fixture> Office<'fixture> {
    pub(crate) async fn new(fixture: &'fixture Memory) -> Self {
        Self::of(World::new(fixture).await).await
    }

    pub(crate) async fn of(world: World<'fixture>) -> Self {
        let host = world.host();
        Self::at(world, host).await
    }

    pub(crate) async fn at(world: World<'fixture>, host: StoreEffectHost) -> Self {
        let processes = host.processes(ProcessLimits::default()).await;
        Self {
            world,
            host,
            processes: processes.expect("opens"),
        }
    }

    /// Ends the process of the operating system, and starts the next one.
    pub(crate) async fn restart(mut self) -> Self {
        self.world.restart().await;
        Self::of(self.world).await
    }

    pub(crate) async fn instance(
        &self,
        functions: Functions,
        config: WorkflowConfig,
    ) -> WorkflowHost {
        let clock = Arc::new(self.world.clock.clone());
        let (host, processes) = (self.host.clone(), self.processes.clone());
        let opened = WorkflowHost::over(host, processes, clock, functions, config).await;
        opened.expect("opens")
    }

    /// Lets all tasks go on until they stand still; time stays.
    pub(crate) async fn rest(&self) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Lets time pass, then all tasks go on.
    pub(crate) async fn pass(&self, time: Duration) {
        self.world.clock.advance(time);
        self.rest().await;
    }

    /// Waits for something; whenever everything stands still, time moves on.
    pub(crate) async fn work<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..1_000 {
            for _ in 0..TURNS {
                let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
                if let Poll::Ready(value) = polled.await {
                    return value;
                }
                tokio::task::yield_now().await;
            }
            let moved = self.world.clock.advance_to_next();
            assert!(moved.is_some(), "nothing is waited for");
        }
        panic!("what is waited for does not come");
    }

    pub(crate) async fn start(&self, registration: &ProcessRegistration) {
        let started = self.processes.start(registration, None).await;
        started.expect("starts");
    }

    pub(crate) async fn signal(&self, process: &str, name: &str, ordinal: u64, value: Value) {
        let process = id(process);
        let signalled = self
            .processes
            .signal(&process, name, ordinal, value, None)
            .await;
        signalled.expect("signals");
    }

    /// Gives a process its first signal `go`.
    pub(crate) async fn go(&self, process: &str) {
        self.signal(process, "go", 1, json!(7)).await;
    }

    /// Takes a process over elsewhere.
    pub(crate) async fn take_over(&self, process: &str) {
        let elsewhere = self.world.host();
        let elsewhere = elsewhere.processes(ProcessLimits::default()).await;
        let taken = elsewhere.expect("opens").take_over(&id(process)).await;
        taken.expect("takes over");
    }

    pub(crate) async fn status(&self, process: &str) -> ProcessStatus {
        let view = self.processes.get(&id(process)).await;
        view.expect("is there").record.status
    }

    /// The kinds of the events of a process.
    pub(crate) async fn told(&self, process: &str) -> Vec<String> {
        let page = self.processes.events(&id(process), 0, 256).await;
        let events = page.expect("reads").events;
        let kinds = events.iter().map(|event| event.kind().to_string());
        kinds.collect()
    }
}

/// What the code of workflows notes, in its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: &str) {
        self.0
            .lock()
            .expect("no test panicked while it held the lock")
            .push(note.to_owned());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .expect("no test panicked while it held the lock")
            .clone()
    }
}

pub(crate) fn id(process: &str) -> ProcessId {
    process.parse().expect("legal")
}

/// Nothing to look after meanwhile.
pub(crate) fn quiet() -> WorkflowConfig {
    WorkflowConfig {
        housekeeping_interval: Duration::from_secs(24 * 60 * 60),
        ..WorkflowConfig::default()
    }
}

/// Drives nothing by itself when it opens.
pub(crate) fn idle() -> WorkflowConfig {
    WorkflowConfig {
        resume: false,
        ..quiet()
    }
}

/// A process that runs `asks`.
pub(crate) fn asking(process: &str) -> ProcessRegistration {
    ProcessRegistration::function(id(process), "asks", Value::Null)
}

/// `asks` notes each drive, and gives what it is given by a signal.
pub(crate) fn asks(notes: &Notes) -> Functions {
    let notes = notes.clone();
    Functions::default().function("asks", move |context: WorkflowContext, (): ()| {
        notes.add(context.process().as_str());
        async move { context.signal::<u32>("go").await }
    })
}

/// Gives back the arguments of a tool call.
struct Echo;

#[async_trait]
impl ProcessRunner for Echo {
    async fn run(
        &self,
        _: WorkflowContext,
        registration: &ProcessRegistration,
    ) -> Result<Value, Failure> {
        match &registration.input {
            ProcessInput::ToolCall { arguments, .. } => Ok(arguments.clone()),
            other => Err(Failure::new("no_tool_call", other.kind())),
        }
    }
}

/// E15: what nobody drives goes on when an instance is told of it, or looks for it.
#[tokio::test]
async fn e15_what_nobody_drives_goes_on_when_an_instance_is_told_or_looks() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    for process in ["one", "two", "three"] {
        office.start(&asking(process)).await;
    }
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), idle()).await;
    office.rest().await;
    assert!(notes.all().is_empty() && !instance.is_busy());
    instance.heard(&id("two"));
    assert!(instance.is_busy());
    office.work(instance.settled()).await;
    assert!(!instance.is_busy());
    assert_eq!(notes.all(), ["two"]);
    instance.recover().await.expect("reads");
    office.work(instance.settled()).await;
    // What waits already is not driven in vain.
    assert_eq!(notes.all(), ["two", "one", "three"]);
}

/// E15: an instance takes what it runs, what is done outside, and the inputs of sessions if they
/// are taken here; nothing else starts.
#[tokio::test]
async fn e15_an_instance_refuses_what_it_could_never_run() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let notes = Notes::default();
    let functions = || asks(&notes).runner("tool_call", Arc::new(Echo));
    let external = ProcessRegistration::function(id("external"), "none", Value::Null)
        .with_disposition(RecoveryDisposition::External);
    let turn = ProcessInput::SessionTurn {
        session: "desk".parse().expect("legal"),
        text: "hello".into(),
    };
    let turn = ProcessRegistration::new(id("turn"), turn);
    let call = ProcessInput::ToolCall {
        tool: "search".into(),
        arguments: json!({ "q": 1 }),
    };
    let call = ProcessRegistration::new(id("call"), call);
    let code = ProcessInput::Code {
        language: "python".into(),
        source: "1 + 1".into(),
    };
    let code = ProcessRegistration::new(id("code"), code);
    let unknown = ProcessRegistration::function(id("unknown"), "none", Value::Null);
    for (functions, takes_turns) in [(functions(), false), (functions().session_turns(), true)] {
        let instance = office.instance(functions, quiet()).await;
        for (registration, is_taken) in [
            (&external, true),
            (&call, true),
            (&turn, takes_turns),
            (&code, false),
            (&unknown, false),
        ] {
            let started = instance.start_process(registration, None).await;
            let process = &registration.process;
            match started {
                Ok(run) => assert_eq!((run.id(), is_taken), (process, true)),
                Err(error) => {
                    assert_eq!(error.code(), "process_function_unknown");
                    assert!(!is_taken, "{process}");
                }
            }
        }
        let run = instance.run(&call.process);
        let found = office.work(run.value::<Value>()).await;
        assert_eq!(found.expect("ends"), json!({ "q": 1 }));
    }
    for process in ["external", "turn"] {
        assert_eq!(office.status(process).await, ProcessStatus::Running);
    }
    // A builder hands its runners on.
    let clock = Arc::new(office.world.clock.clone());
    let builder = WorkflowHost::builder(Arc::clone(&office.world.store) as _)
        .world(clock, Arc::new(SeededRandom::new(99)))
        .runner("tool_call", Arc::new(Echo));
    let instance = builder.open().await.expect("opens");
    let call = ProcessRegistration::new(id("again"), call.input.clone());
    let run = instance.start_process(&call, None).await.expect("starts");
    let found = office.work(run.value::<Value>()).await;
    assert_eq!(found.expect("ends"), json!({ "q": 1 }));
}

/// E15: what is done outside is not driven here, although its function is known here.
#[tokio::test]
async fn e15_what_is_done_outside_is_not_driven_here() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), quiet()).await;
    let external = asking("p").with_disposition(RecoveryDisposition::External);
    let started = instance.start_process(&external, None).await;
    let run = started.expect("starts");
    office.rest().await;
    instance.heard(run.id());
    office.work(instance.settled()).await;
    assert_eq!(notes.all(), [""; 0]);
    let message = "the other side gave up".to_owned();
    let raw = Some(json!({ "signal": 9 }));
    let cancelled = ProcessOutcome::Cancelled { message, raw };
    let reported = office.processes.report_end(run.id(), &cancelled).await;
    reported.expect("is recorded");
    let ended = run.value::<u32>().await.expect_err("was cancelled");
    let expected = WireError {
        details: Some(json!({ "signal": 9 })),
        ..WireError::new(
            "process_cancelled",
            ErrorClass::Cancelled,
            "the other side gave up",
        )
    };
    assert_eq!(ended, expected);
}

/// E15: an instance that parks nothing leaves what it does not know to one that does; what is
/// cancelled or lost ends here all the same, and what it knows is driven.
#[tokio::test]
async fn e15_what_an_instance_does_not_know_is_left_as_it_is() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let foreign = |process| ProcessRegistration::function(id(process), "foreign", Value::Null);
    let bound = foreign("bound").with_disposition(RecoveryDisposition::OwnerBound);
    for registration in [
        asking("known"),
        foreign("unknown"),
        foreign("unwanted"),
        bound,
    ] {
        office.start(&registration).await;
    }
    let unwanted = id("unwanted");
    let cancelled = office.processes.cancel(&unwanted, "enough", None).await;
    cancelled.expect("cancels");
    let notes = Notes::default();
    let config = WorkflowConfig {
        park_unknown: false,
        ..quiet()
    };
    let instance = office.instance(asks(&notes), config).await;
    office.work(instance.settled()).await;
    assert_eq!(notes.all(), ["known"]);
    assert_eq!(
        office.told("unknown").await,
        ["process_registered", "process_started"]
    );
    assert_eq!(office.status("unwanted").await, ProcessStatus::Cancelled);
    let lost = instance.run(&id("bound")).value::<u32>().await;
    assert_eq!(lost.expect_err("is lost").code, "process_owner_lost");
}

/// E9: no more are driven at once than allowed; what waits does not count.
#[tokio::test]
async fn e9_no_more_are_driven_at_once_than_allowed() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counts, clock) = (
        (Arc::clone(&running), Arc::clone(&most)),
        office.world.clock.clone(),
    );
    let functions =
        Functions::default().function("works", move |context: WorkflowContext, (): ()| {
            let ((running, most), clock) = (counts.clone(), clock.clone());
            async move {
                context.sleep(Duration::from_secs(60)).await;
                let works = context.step("works", || async {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    clock.sleep(Duration::from_secs(1)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, Failure>(())
                });
                works.await
            }
        });
    let config = WorkflowConfig {
        running_max: 2,
        ..quiet()
    };
    let instance = office.instance(functions, config).await;
    for process in ["a", "b", "c", "d", "e"] {
        let works = ProcessRegistration::function(id(process), "works", Value::Null);
        office.start(&works).await;
    }
    office.work(instance.settled()).await;
    office.pass(Duration::from_secs(60)).await;
    assert_eq!(running.load(Ordering::SeqCst), 2);
    office.work(instance.settled()).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(office.status("e").await, ProcessStatus::Succeeded);
}

/// E15: closing lets what is driven go on for a while, says how many it cut off, and drives
/// nothing any more; closing twice does nothing.
#[tokio::test]
async fn e15_closing_lets_what_is_driven_go_on_for_a_while() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let clock = office.world.clock.clone();
    let functions =
        asks(&Notes::default()).function("works", move |context: WorkflowContext, seconds: u64| {
            let clock = clock.clone();
            async move {
                let works = context.step("works", || async {
                    clock.sleep(Duration::from_secs(seconds)).await;
                    Ok::<_, Failure>(seconds)
                });
                works.timeout(Duration::from_secs(86_400)).await
            }
        });
    let config = WorkflowConfig {
        drain_timeout: Duration::from_secs(5),
        ..quiet()
    };
    let instance = office.instance(functions, config).await;
    for (process, seconds) in [("short", 1), ("long", 3_600)] {
        let works = ProcessRegistration::function(id(process), "works", json!(seconds));
        office.start(&works).await;
    }
    office.start(&asking("waits")).await;
    office.rest().await;
    let began = office.world.now();
    let report = office.work(instance.close()).await;
    assert_eq!((report.interrupted, report.failures.len()), (1, 0));
    assert_eq!(office.world.now().since(began), Duration::from_secs(5));
    assert_eq!(office.work(instance.close()).await, report);
    office.go("waits").await;
    office.pass(Duration::from_secs(7_200)).await;
    for (process, status) in [
        ("short", ProcessStatus::Succeeded),
        ("long", ProcessStatus::Running),
        ("waits", ProcessStatus::Running),
    ] {
        assert_eq!(office.status(process).await, status, "{process}");
    }
}

/// E15: without the last handle nothing is driven any more.
#[tokio::test]
async fn e15_dropping_the_last_handle_ends_the_tasks() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), quiet()).await;
    for process in ["one", "two"] {
        office.start(&asking(process)).await;
    }
    office.work(instance.settled()).await;
    drop(instance.clone());
    office.go("one").await;
    office.work(instance.settled()).await;
    drop(instance);
    office.rest().await;
    office.go("two").await;
    office.rest().await;
    assert_eq!(office.status("one").await, ProcessStatus::Succeeded);
    assert_eq!(office.status("two").await, ProcessStatus::Running);
    assert_eq!(notes.all(), ["one", "two", "one"]);
}
