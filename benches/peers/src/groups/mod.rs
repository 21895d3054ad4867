//! What is measured, a file each: its contenders and its targets.

mod append;
mod discovery;
mod duroxide_steps;
mod fan_out;
mod lease;
pub(crate) mod open;
mod postgres;
mod promise;
mod replay;
mod scaling;
mod step;
mod turn;

use clap::ValueEnum;

use harness::{Outcome, Plan, Table};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Durable commits of guard, row and event, by the number of writers.
    Append,
    /// Durable steps with an outcome of 200 bytes, by the number of turns that run at once.
    Step,
    /// Opening after SIGKILL; going on with unfinished turns.
    Open,
    /// Pages and whole streams, from the start and from the middle.
    Replay,
    /// Events to many subscribers.
    FanOut,
    /// From the resolution of a promise to whoever waits for it.
    Promise,
    /// What tool servers offer: a hit, and many callers of a cold key.
    Discovery,
    /// Acquiring and releasing a live agent.
    Lease,
    /// A whole scripted turn with two tools.
    Turn,
    /// The same operations with more and more history behind them.
    Scaling,
    /// Durable steps on one PostgreSQL server.
    Postgres,
}

impl Group {
    pub(crate) fn or_all(groups: &[Self]) -> &[Self] {
        match groups {
            [] => Self::value_variants(),
            groups => groups,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Step => "step",
            Self::Open => "open",
            Self::Replay => "replay",
            Self::FanOut => "fan-out",
            Self::Promise => "promise",
            Self::Discovery => "discovery",
            Self::Lease => "lease",
            Self::Turn => "turn",
            Self::Scaling => "scaling",
            Self::Postgres => "postgres",
        }
    }

    /// Prepares what the rounds share.
    pub(crate) async fn tables(self, plan: Plan) -> Outcome<Vec<Table>> {
        Ok(match self {
            Self::Append => append::tables(),
            Self::Step => step::tables(),
            Self::Open => open::tables(plan)?,
            Self::Replay => replay::tables(plan).await?,
            Self::FanOut => fan_out::tables(),
            Self::Promise => promise::tables(),
            Self::Discovery => discovery::tables().await?,
            Self::Lease => lease::tables().await?,
            Self::Turn => turn::tables(),
            Self::Scaling => scaling::tables(plan).await?,
            Self::Postgres => postgres::tables()?,
        })
    }
}
