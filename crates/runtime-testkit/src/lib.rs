//! What tests of the workspace share: the law of a store ([`mod@store_laws`]) and of effects over
//! it ([`mod@effect_laws`]), of processes ([`mod@process_laws`]), of the event log and its streams
//! ([`mod@event_laws`]) and of live fan-out ([`mod@adapter_laws`]), a model to hold a store against
//! ([`check_against_model`]), a store that fails on plan ([`FaultStore`]), one as several
//! processes see it ([`ProcessStore`]), a controller that is keyed or deliberately ordinal
//! ([`JournalController`]), a model provider over HTTP that answers as badly as a test wants
//! ([`ProviderServer`]), a simulated clock and repeatable randomness.
//!
//! Not for production: nothing here is durable or secret.
//!
//! ```
//! use std::time::Duration;
//!
//! use runtime_core::{Clock, Timestamp};
//! use runtime_testkit::SimulatedClock;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let clock = SimulatedClock::new(Timestamp::from_millis(1_000));
//! let sleep = clock.sleep(Duration::from_secs(60));
//! clock.advance(Duration::from_secs(60));
//! sleep.await;
//! assert_eq!(clock.now(), Timestamp::from_millis(61_000));
//! # }
//! ```

pub mod adapter_laws;
mod clock;
mod effect_journal;
pub mod effect_laws;
pub mod event_laws;
mod fault_store;
pub mod process_laws;
mod process_store;
mod provider_server;
mod random;
mod real_servers;
pub mod store_laws;
mod store_model;

pub use clock::SimulatedClock;
pub use effect_journal::{EffectJournal, JournalController, Lifetime, Moment};
pub use fault_store::{Fault, FaultStore, RecordedCommit};
pub use process_store::ProcessStore;
pub use provider_server::{ProviderRequest, ProviderResponse, ProviderServer, ProviderStep};
pub use random::SeededRandom;
pub use real_servers::{InstalledServer, RealServer};
pub use store_model::check_against_model;
