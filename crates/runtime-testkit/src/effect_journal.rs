//! A journal in memory with a controller over it: keyed and concurrent, or ordinal and serial.
//!
//! Drivers must be right on both kinds (E1); no store has the second kind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use runtime_core::{
    Digest, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, EventDraft,
    ReplayKey, Resolution, Timestamp, WaitIdentity, WaitOutput, WaitSource,
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
    records: BTreeMap<String, (Digest, EffectOutcome)>,
    answers: Vec<(WaitIdentity, Resolution)>,
    /// The effects that really ran, one entry for each attempt.
    ran: Vec<ReplayKey>,
    /// The events of the outcomes, with the payload of a real controller.
    events: Vec<EventDraft>,
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

    /// Returns a recorded outcome.
    ///
    /// # Panics
    /// When there is none under this key (or place).
    #[must_use]
    pub fn outcome(&self, key: &str) -> EffectOutcome {
        self.state().records[key].1.clone()
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
        }
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
        let (digest, outcome) = state.records.get(address)?;
        assert_eq!(*digest, envelope.digest(), "{address} changed on replay");
        Some(outcome.clone())
    }

    fn record(
        &self,
        address: String,
        envelope: &EffectEnvelope,
        outcome: EffectOutcome,
    ) -> Result<EffectOutcome, Interrupt> {
        let mut state = self.journal.state();
        if state.records.len() >= self.records_max {
            return Err(Interrupt::Fenced);
        }
        // What is recorded is what JSON keeps.
        let text = serde_json::to_string(&outcome).expect("an outcome is plain data");
        let outcome: EffectOutcome = serde_json::from_str(&text).expect("what was written is read");
        let told = self.projector.outcome(envelope, &outcome);
        let payload = json!({ "identity": envelope.identity(), "outcome": outcome });
        state.events.push(told.carrier.with_payload(payload));
        state.events.extend(told.further);
        state
            .records
            .insert(address, (envelope.digest(), outcome.clone()));
        Ok(outcome)
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
        let mut attempt = 0;
        loop {
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
