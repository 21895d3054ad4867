//! Spans of the runtime, exported by OTLP (T7).
//!
//! The crates of the runtime make spans by `tracing`, with the names of OpenTelemetry's
//! conventions for GenAI: `invoke_agent` for a turn, and in it `chat` for each attempt of a model
//! call and `execute_tool` for each call of a tool. This crate takes them to a collector, over
//! HTTP with protobuf bodies. What was said is in no span, unless an agent asks for content.
//!
//! ```
//! use runtime_otel::{OtlpConfig, SpanExport};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let export = SpanExport::start(&OtlpConfig::new("http://127.0.0.1:4318"))?;
//! export.install()?;
//! // … the program, and at its end, so that the last spans are sent:
//! export.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A program that has a `tracing` subscriber of its own, or other exporters, needs nothing of
//! this: it adds the layer of `tracing-opentelemetry` to it, and the same spans arrive there.
//!
//! Spans are a view, not the record: they are sent in batches by a thread of their own, a full
//! queue drops them, and a collector that is away holds up nothing. What must not be lost is in
//! the event log.
//!
//! Not here: metrics and logs, gRPC, compression.

mod config;
mod error;
mod export;

pub use config::OtlpConfig;
pub use error::OtelError;
pub use export::SpanExport;
