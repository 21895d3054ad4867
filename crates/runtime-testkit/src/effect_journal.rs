//! A journal in memory with a controller over it: keyed and concurrent, or ordinal and serial.
//!
//! Drivers must be right on both kinds (E1); no store has the second kind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use runtime_core::{
    Digest, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, EventDraft,
    EventKind, ReplayKey, Resolution, Timestamp, WaitIdentity, WaitOutput, WaitSource,
};
use runtime_effects::{
    Addressing, Applied, AttemptContext, Concurrency, EffectController, Interrupt, LocalExecutor,
    Projector, TriggerReports,
};
use serde_json::json;

/// What a [`JournalController`] records: it outlives a crash of the driver, not of the test.
#[derive(Debug, Default)]
pub struct EffectJournal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By key, or by place.
    records: BTreeMap<String, Kept>,
    answers: Vec<(WaitIdentity, Resolution)>,
    /// The effects that really ran, one entry for each attempt.
    ran: Vec<ReplayKey>,
    /// The effects that must not run twice and were about to run, by key, or by place.
    intents: BTreeMap<String, (EffectEnvelope, EventDraft)>,
    /// The events of the outcomes, with the payload of a real controller.
    events: Vec<EventDraft>,
}

#[derive(Debug)]
struct Kept {
    key: ReplayKey,
    digest: Digest,
    outcome: EffectOutcome,
}

impl State {
    fn keep(
        &mut self,
        projector: &dyn Projector,
        address: String,
        envelope: &EffectEnvelope,
        outcome: EffectOutcome,
    ) {
        let told = projector.outcome(envelope, &outcome);
        let payload = json!({ "identity": envelope.identity(), "outcome": outcome });
        self.events.push(told.carrier.with_payload(payload));
        self.events.extend(told.further);
        let kept = Kept {
            key: envelope.key().clone(),
            digest: envelope.digest(),
            outcome,
        };
        self.records.insert(address, kept);
    }
}

/// The life of a process: it may end at a record, or when somebody ends it. Then its drivers get
/// nothing done any more.
#[derive(Debug, Default)]
pub struct Lifetime {
    dead: AtomicBool,
    dies: Option<(EventKind, usize, Moment)>,
}

/// On which side of a record a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is not made.
    Before,
    /// It is made, and nobody hears of it.
    After,
}

impl Lifetime {
    /// Ends at the `number`-th record, from 1, that is told by an event of that kind.
    #[must_use]
    pub const fn until(kind: EventKind, number: usize, moment: Moment) -> Self {
        Self {
            dead: AtomicBool::new(false),
            dies: Some((kind, number, moment)),
        }
    }

    /// Ends now.
    pub fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Says whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<(), Interrupt> {
        match self.is_over() {
            true => Err(Interrupt::Fenced),
            false => Ok(()),
        }
    }

    /// Goes past one side of a record.
    fn pass(
        &self,
        journal: &EffectJournal,
        kind: &EventKind,
        side: Moment,
    ) -> Result<(), Interrupt> {
        self.alive()?;
        let Some((dies_at, number, moment)) = &self.dies else {
            return Ok(());
        };
        let made = journal.told(kind) + usize::from(side == Moment::Before);
        if dies_at == kind && *number == made && *moment == side {
            self.end();
        }
        self.alive()
    }
}

impl EffectJournal {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Returns the keys of the effects that really ran, one for each attempt, in their order.
    #[must_use]
    pub fn ran(&self) -> Vec<String> {
        let state = self.state();
        state.ran.iter().map(ToString::to_string).collect()
    }

    /// Says how many attempts of a kind of effect really ran.
    #[must_use]
    pub fn ran_of(&self, kind: EffectKind) -> usize {
        let part = format!(".{kind}.");
        self.ran().iter().filter(|key| key.contains(&part)).count()
    }

    /// Says how many outcomes are recorded.
    #[must_use]
    pub fn records(&self) -> usize {
        self.state().records.len()
    }

    /// Returns the events of the outcomes, with the payload that a real controller gives them.
    #[must_use]
    pub fn events(&self) -> Vec<EventDraft> {
        self.state().events.clone()
    }

    /// Returns the recorded outcome of a key, however it is addressed.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn outcome(&self, key: &str) -> EffectOutcome {
        let state = self.state();
        let mut records = state.records.values();
        let kept = records.find(|kept| kept.key.to_string() == key);
        kept.expect("an outcome of this key").outcome.clone()
    }

    /// Rules on the effect that is in doubt: it ended with this output, or did not happen and may
    /// run again. Says false when none is.
    pub fn rule(&self, projector: &dyn Projector, ended: Option<EffectOutput>) -> bool {
        let mut state = self.state();
        let open = state
            .intents
            .keys()
            .find(|address| !state.records.contains_key(*address));
        let Some(address) = open.cloned() else {
            return false;
        };
        let (envelope, _) = state.intents.remove(&address).expect("it was just found");
        if let Some(output) = ended {
            let outcome = EffectOutcome::Completed(output);
            state.keep(projector, address, &envelope, outcome);
        }
        true
    }

    /// Says how often something of that kind was told: of outcomes and of intents.
    #[must_use]
    pub fn told(&self, kind: &EventKind) -> usize {
        let state = self.state();
        let intents = state.intents.values().map(|(_, told)| told);
        let told = state.events.iter().chain(intents);
        told.filter(|event| event.kind == *kind).count()
    }

    /// Resolves a promise, from wherever.
    pub fn resolve(&self, identity: WaitIdentity, resolution: Resolution) {
        let mut state = self.state();
        state.answers.push((identity, resolution));
    }
}

/// One run over an [`EffectJournal`]. It crashes before it records more than `records_max` outcomes.
#[derive(Debug)]
pub struct JournalController {
    journal: Arc<EffectJournal>,
    addressing: Addressing,
    records_max: usize,
    place: Mutex<usize>,
    asked: Mutex<Vec<WaitSource>>,
    projector: Arc<dyn Projector>,
    life: Arc<Lifetime>,
    has_intents: bool,
}

impl JournalController {
    /// Runs by key, the effects of a batch side by side, as over a store.
    #[must_use]
    pub fn keyed(journal: &Arc<EffectJournal>, projector: Arc<dyn Projector>) -> Self {
        Self::new(journal, projector, Addressing::Keyed)
    }

    /// Runs by place in the order of calls, one effect after another, as over an engine that
    /// replays a history.
    #[must_use]
    pub fn ordinal(journal: &Arc<EffectJournal>, projector: Arc<dyn Projector>) -> Self {
        Self::new(journal, projector, Addressing::Ordinal)
    }

    /// Runs in the way of an addressing.
    #[must_use]
    pub fn new(
        journal: &Arc<EffectJournal>,
        projector: Arc<dyn Projector>,
        addressing: Addressing,
    ) -> Self {
        Self {
            journal: Arc::clone(journal),
            addressing,
            records_max: usize::MAX,
            place: Mutex::new(0),
            asked: Mutex::default(),
            projector,
            life: Arc::default(),
            has_intents: false,
        }
    }

    /// Lives so long.
    #[must_use]
    pub fn living(mut self, life: &Arc<Lifetime>) -> Self {
        self.life = Arc::clone(life);
        self
    }

    /// Records that an effect which must not run twice is about to run, so that it is in doubt
    /// when its outcome is missing (E7).
    #[must_use]
    pub const fn with_intents(mut self) -> Self {
        self.has_intents = true;
        self
    }

    /// Returns the sources of the last wait that was not ready.
    #[must_use]
    pub fn asked(&self) -> Vec<WaitSource> {
        locked(&self.asked).clone()
    }

    /// Lets the process die before it records more than so many outcomes.
    #[must_use]
    pub fn crashing_after(mut self, records: usize) -> Self {
        self.records_max = records;
        self
    }

    fn address(&self, envelope: &EffectEnvelope) -> String {
        let mut place = locked(&self.place);
        *place += 1;
        match self.addressing {
            Addressing::Keyed => envelope.key().to_string(),
            Addressing::Ordinal => format!("{:06}", *place),
        }
    }

    /// The recorded outcome; a conflict is a bug of the driver here.
    fn recorded(&self, address: &str, envelope: &EffectEnvelope) -> Option<EffectOutcome> {
        let state = self.journal.state();
        let kept = state.records.get(address)?;
        assert_eq!(
            kept.digest,
            envelope.digest(),
            "{address} changed on replay"
        );
        Some(kept.outcome.clone())
    }

    fn record(
        &self,
        address: String,
        envelope: &EffectEnvelope,
        outcome: EffectOutcome,
    ) -> Result<EffectOutcome, Interrupt> {
        let kind = self.projector.outcome(envelope, &outcome).carrier.kind;
        self.life.pass(&self.journal, &kind, Moment::Before)?;
        let mut state = self.journal.state();
        if state.records.len() >= self.records_max {
            return Err(Interrupt::Fenced);
        }
        // What is recorded is what JSON keeps.
        let text = serde_json::to_string(&outcome).expect("an outcome is plain data");
        let outcome: EffectOutcome = serde_json::from_str(&text).expect("what was written is read");
        state.keep(&*self.projector, address, envelope, outcome.clone());
        drop(state);
        self.life.pass(&self.journal, &kind, Moment::After)?;
        Ok(outcome)
    }

    /// Records that the effect is about to run; in doubt if an earlier life had got that far.
    fn intend(&self, address: &str, envelope: &EffectEnvelope) -> Result<(), Interrupt> {
        if !self.has_intents || envelope.is_retry_safe() {
            return Ok(());
        }
        if self.journal.state().intents.contains_key(address) {
            let key = envelope.key().clone();
            return Err(Interrupt::InDoubt { key });
        }
        let told = self.projector.started(envelope).carrier;
        let kind = told.kind.clone();
        self.life.pass(&self.journal, &kind, Moment::Before)?;
        let intent = (envelope.clone(), told);
        self.journal
            .state()
            .intents
            .insert(address.to_owned(), intent);
        self.life.pass(&self.journal, &kind, Moment::After)
    }

    async fn run(
        &self,
        address: String,
        envelope: EffectEnvelope,
        mut executor: LocalExecutor<'_>,
    ) -> Result<EffectOutcome, Interrupt> {
        if let Some(outcome) = self.recorded(&address, &envelope) {
            return Ok(outcome);
        }
        if self.journal.records() >= self.records_max {
            return Err(Interrupt::Fenced);
        }
        assert_eq!(executor.kind(), envelope.kind());
        self.life.alive()?;
        self.intend(&address, &envelope)?;
        let mut attempt = 0;
        loop {
            self.life.alive()?;
            attempt += 1;
            let key = envelope.key().clone();
            self.journal.state().ran.push(key.clone());
            let context = AttemptContext {
                attempt,
                idempotency_key: envelope.idempotency_key(),
                fencing_token: 1,
                deadline: Timestamp::from_millis(60_000),
                triggers: TriggerReports::default(),
            };
            let error = match executor.attempt(context).await {
                Ok(output) => {
                    assert_eq!(output.kind(), envelope.kind());
                    return self.record(address, &envelope, EffectOutcome::Completed(output));
                }
                Err(error) => error,
            };
            if error.error.class.is_final() {
                return self.record(address, &envelope, EffectOutcome::Failed(error.error));
            }
            if error.applied == Applied::Unknown && !envelope.is_retry_safe() {
                return Err(Interrupt::InDoubt { key });
            }
            if attempt >= envelope.policy().max_attempts.min(5) {
                return Err(Interrupt::Terminal(error.error));
            }
        }
    }

    fn seen(&self, sources: &[WaitSource]) -> Option<WaitOutput> {
        let state = self.journal.state();
        sources.iter().enumerate().find_map(|(at, source)| {
            let WaitSource::Promise { identity, .. } = source else {
                return None;
            };
            let answer = state.answers.iter().find(|(known, _)| known == identity);
            answer.map(|(_, resolution)| WaitOutput::Resolved {
                source: u32::try_from(at).expect("few sources"),
                resolution: resolution.clone(),
            })
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl EffectController for JournalController {
    fn concurrency(&self) -> Concurrency {
        match self.addressing {
            Addressing::Keyed => Concurrency::Concurrent,
            Addressing::Ordinal => Concurrency::Serial,
        }
    }

    fn addressing(&self) -> Addressing {
        self.addressing
    }

    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt> {
        let address = self.address(&envelope);
        self.run(address, envelope, executor).await
    }

    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Vec<Result<EffectOutcome, Interrupt>> {
        let runs: Vec<_> = items
            .into_iter()
            .map(|(envelope, executor)| {
                let address = self.address(&envelope);
                self.run(address, envelope, executor)
            })
            .collect();
        match self.concurrency() {
            Concurrency::Concurrent => join_all(runs).await,
            Concurrency::Serial => {
                let mut outcomes = Vec::new();
                for run in runs {
                    outcomes.push(run.await);
                }
                outcomes
            }
        }
    }

    async fn wait_any(&self, envelope: EffectEnvelope) -> Result<EffectOutcome, Interrupt> {
        let address = self.address(&envelope);
        if let Some(outcome) = self.recorded(&address, &envelope) {
            return Ok(outcome);
        }
        self.life.alive()?;
        let EffectCommand::AwaitEvent { sources } = envelope.command() else {
            panic!("a wait expected");
        };
        match self.seen(sources) {
            Some(seen) => {
                let outcome = EffectOutcome::Completed(EffectOutput::AwaitEvent(seen));
                self.record(address, &envelope, outcome)
            }
            None => {
                *locked(&self.asked) = sources.clone();
                let key = envelope.key().clone();
                Err(Interrupt::Suspended { key, due: None })
            }
        }
    }
}
