//! The tools and instructions of a turn: gathered once, recorded, read back on every resume.

use std::sync::Arc;

use futures_util::future::join_all;
use runtime_core::{
    Classified, Digest, EffectOutput, ErrorClass, SourceReport, ToolDefinition, WireError,
};
use runtime_effects::{Applied, ExecutorError, Interrupt};
use runtime_store::{AttachmentError, AttachmentStore};
use runtime_tools::{SourceDiagnostic, SourceListing, Tool, ToolError, Toolbox};
use tokio::sync::OnceCell;

use crate::Agent;

/// How many missing sources one record names; the rest is left out of it.
const REPORTS_MAX: usize = 64;

/// What could be gathered now.
#[derive(Debug)]
struct Gathered {
    toolbox: Toolbox,
    reports: Vec<SourceReport>,
    /// A required source that cannot be listed.
    missing: Option<SourceReport>,
    /// Some source cannot be listed: a tool that is not here may be there.
    incomplete: bool,
}

/// The live tools of a run, gathered when the first is needed: a turn that only replays asks no
/// tool server.
#[derive(Debug)]
pub(crate) struct LiveTools<'run> {
    agent: &'run Agent,
    gathered: OnceCell<Gathered>,
}

impl<'run> LiveTools<'run> {
    pub(crate) const fn new(agent: &'run Agent) -> Self {
        Self {
            agent,
            gathered: OnceCell::const_new(),
        }
    }

    /// Finds the tool behind a recorded definition.
    pub(crate) async fn tool(&self, name: &str) -> Result<Arc<dyn Tool>, ToolError> {
        let gathered = self.gathered.get_or_init(|| gather(self.agent)).await;
        if let Some(tool) = gathered.toolbox.tool(name) {
            return Ok(Arc::clone(tool));
        }
        let tool = name.to_owned();
        if !gathered.incomplete {
            return Err(ToolError::NotFound { tool });
        }
        // A tool server that was down may be back: each attempt asks anew.
        let again = gather(self.agent).await;
        match again.toolbox.tool(name) {
            Some(tool) => Ok(Arc::clone(tool)),
            None if again.incomplete => Err(ToolError::Unavailable {
                tool,
                reason: "a tool server cannot be listed".to_owned(),
            }),
            None => Err(ToolError::NotFound { tool }),
        }
    }
}

/// Gathers the tools and stores prompt and catalogue as attachments.
pub(crate) async fn sync(
    agent: &Agent,
    attachments: &dyn AttachmentStore,
) -> Result<EffectOutput, ExecutorError> {
    let gathered = gather(agent).await;
    if let Some(missing) = gathered.missing {
        return Err(required_missing(&missing));
    }
    let mut definitions = gathered.toolbox.definitions();
    for definition in &mut definitions {
        if let Some(policy) = agent.approval_for(&definition.name) {
            definition.approval = policy.clone();
        }
    }
    let catalogue = catalogue_bytes(&definitions);
    let prompt = agent.instructions.as_bytes().into();
    let prompt = attachments.put_attachment(prompt).await.map_err(unstored)?;
    let tools = attachments.put_attachment(catalogue.into()).await;
    Ok(EffectOutput::SyncExecutionEnvironment {
        prompt,
        tools: tools.map_err(unstored)?,
        reports: gathered.reports,
    })
}

/// Reads an attachment that the turn has recorded.
pub(crate) async fn load(
    attachments: &dyn AttachmentStore,
    digest: &Digest,
) -> Result<Arc<[u8]>, Interrupt> {
    let unresolved = |error: AttachmentError| {
        let resolved = match error.class() {
            ErrorClass::NotFound => WireError::new(
                "attachment_resolution_failed",
                ErrorClass::Corrupt,
                format!("recorded attachment {digest} is gone"),
            ),
            _ => error.to_wire(),
        };
        Interrupt::Terminal(resolved)
    };
    attachments.attachment(digest).await.map_err(unresolved)
}

async fn gather(agent: &Agent) -> Gathered {
    let listings = join_all(agent.sources.iter().map(|source| source.list())).await;
    let mut reports = Vec::new();
    let mut missing = None;
    let mut incomplete = false;
    for (source, listing) in agent.sources.iter().zip(&listings) {
        let Some(diagnostic) = &listing.diagnostic else {
            continue;
        };
        let report = report(diagnostic);
        incomplete |= is_unlisted(listing);
        if source.required() && is_unlisted(listing) {
            missing.get_or_insert(report.clone());
        }
        reports.push(report);
    }
    let served = listings.into_iter().flat_map(|listing| listing.tools);
    let (toolbox, refused) = Toolbox::gather(agent.tools.iter().cloned().chain(served));
    reports.extend(refused.into_iter().map(duplicate));
    reports.truncate(REPORTS_MAX);
    Gathered {
        toolbox,
        reports,
        missing,
        incomplete,
    }
}

fn is_unlisted(listing: &SourceListing) -> bool {
    listing.tools.is_empty() && listing.diagnostic.is_some()
}

fn report(diagnostic: &SourceDiagnostic) -> SourceReport {
    SourceReport {
        source: diagnostic.source.clone(),
        state: diagnostic.state.clone(),
        error: diagnostic.error.clone(),
        next_retry: diagnostic.next_retry,
    }
}

fn duplicate(name: String) -> SourceReport {
    SourceReport {
        source: name,
        state: "duplicate_name".to_owned(),
        error: None,
        next_retry: None,
    }
}

fn catalogue_bytes(definitions: &[ToolDefinition]) -> Vec<u8> {
    serde_json::to_vec(definitions).expect("a definition is plain data")
}

fn required_missing(report: &SourceReport) -> ExecutorError {
    let reason = report.error.as_ref().map_or("", |error| &error.code);
    let message = format!(
        "required tool server {} cannot be listed ({} {reason})",
        report.source, report.state
    );
    ExecutorError {
        error: WireError::new("tool_source_required", ErrorClass::Unavailable, message),
        applied: Applied::No,
    }
}

fn unstored(error: AttachmentError) -> ExecutorError {
    ExecutorError {
        error: error.to_wire(),
        applied: Applied::No,
    }
}
