//! `copy`: a whole runtime from files into a database, or back (S7).

use std::io::{BufReader, BufWriter, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::OpenError;
use runtime::core::{Clock, ErrorClass, WireError};
use runtime::effects::{LeaseConfig, LeaseKeeper};
use runtime::fs_store::{self, FsStore, FsStoreOptions};
use runtime::postgres::{self, PostgresOptions, PostgresStore};
use runtime::store::{ExportReport, ImportReport, KeyRing, Progress, Store, SystemRandom};
use serde_json::json;

use crate::exit::Exit;
use crate::open::create_private;
use crate::output::{Output, wire};
use crate::store_care::Teller;

/// Where a runtime is, or is to be.
#[derive(Clone)]
enum Place {
    /// The directory of the store itself.
    Files(PathBuf),
    Database(Box<PostgresOptions>),
}

impl Place {
    fn parse(named: &str) -> anyhow::Result<Self> {
        if named.starts_with("postgres://") || named.starts_with("postgresql://") {
            let options = PostgresOptions::new(named).map_err(OpenError::from)?;
            return Ok(Self::Database(Box::new(options)));
        }
        Ok(Self::Files(Path::new(named).join("store")))
    }

    /// Opens what is to be copied, so that nobody writes to it meanwhile.
    async fn hold(&self) -> anyhow::Result<Arc<dyn Store>> {
        match self {
            Self::Files(directory) => {
                if !directory.exists() {
                    let directory = directory.clone();
                    return Err(OpenError::from(fs_store::OpenError::NoStore { directory }).into());
                }
                let options = FsStoreOptions::new(directory);
                let store = tokio::task::spawn_blocking(move || FsStore::open(&options)).await?;
                Ok(Arc::new(store.map_err(OpenError::from)?))
            }
            Self::Database(options) => {
                let options = options.as_ref().clone().create(false);
                let store = PostgresStore::open(options).await;
                let store = Arc::new(store.map_err(OpenError::from)?);
                let clock = store.clock();
                nobody_else(Arc::clone(&store) as _, clock).await?;
                Ok(store)
            }
        }
    }

    /// Writes everything. On a thread of its own: the other side waits for each line of it.
    fn export(self, pipe: PipeWriter) -> anyhow::Result<ExportReport> {
        let mut out = BufWriter::new(pipe);
        let untold = &mut |_: Progress| ();
        match self {
            Self::Files(directory) => Ok(fs_store::export(&directory, &mut out, untold)?),
            Self::Database(options) => {
                Ok(on_this_thread()?.block_on(postgres::export(&options, &mut out, untold))?)
            }
        }
    }

    /// Makes the copy. On a thread of its own, as well.
    fn import(self, pipe: PipeReader, keys: &KeyRing) -> anyhow::Result<ImportReport> {
        let mut lines = BufReader::new(pipe);
        let mut teller = Teller::new("copying");
        let told = &mut |progress| teller.tell(progress);
        match self {
            Self::Files(directory) => {
                let above = directory.parent().unwrap_or(&directory);
                create_private(above)
                    .with_context(|| format!("cannot make directory {}", above.display()))?;
                let options = FsStoreOptions::new(directory);
                Ok(fs_store::import(&mut lines, &options, Some(keys), told)?)
            }
            Self::Database(options) => Ok(on_this_thread()?.block_on(postgres::import(
                &mut lines,
                &options,
                Some(keys),
                told,
            ))?),
        }
    }
}

fn on_this_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Sees to it that no instance has the runtime open: one that lives renews its lease while this
/// watches, one that died does not, and is declared dead.
async fn nobody_else(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    let terms = LeaseConfig::default();
    let part = |error| runtime::RuntimeError::from_part(&error);
    let observer = LeaseKeeper::new(store, Arc::clone(&clock), Arc::new(SystemRandom), terms);
    let observer = observer.map_err(part)?;
    let began = clock.monotonic();
    loop {
        observer.look().await.map_err(part)?;
        let living = observer.living().await.map_err(part)?;
        let Some(one) = living.first() else {
            return Ok(());
        };
        // Whoever is not declared dead by now has renewed its lease.
        if clock.monotonic().saturating_sub(began) > terms.ttl + 2 * terms.look_every {
            let message =
                format!("instance {one} has the runtime open; close it before it is copied");
            return Err(WireError::new("copy_source_open", ErrorClass::Busy, message).into());
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
}

/// `copy`
pub(crate) async fn copy(output: Output, from: &str, to: &str) -> anyhow::Result<Exit> {
    let (source, target) = (Place::parse(from)?, Place::parse(to)?);
    let held = source.hold().await?;
    let keys = held.key_ring().await?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let ring = keys.clone();
    let importing = tokio::task::spawn_blocking(move || target.import(reader, &ring));
    let exporting = tokio::task::spawn_blocking(move || source.export(writer));
    let (imported, exported) = (importing.await?, exporting.await?);
    let runtime = held.identity().runtime.clone();
    held.close().await?;
    let report = match (exported, imported) {
        // The other side has gone away, and says why.
        (Err(lost), Err(why)) if wire(&lost).code == "store_export_io" => return Err(why),
        (Err(why), _) | (_, Err(why)) => return Err(why),
        (Ok(out), Ok(made)) => {
            let same = (out.events, out.rows, out.attachments);
            anyhow::ensure!(
                same == (made.events, made.rows, made.attachments),
                "not everything arrived: {out:?} was read, {made:?} was made"
            );
            made
        }
    };
    let keys = keys.keys.len();
    output.print(
        || {
            format!(
                "{runtime}: {} events, {} rows, {} attachments, {keys} signing keys; from now on \
                 open the copy only",
                report.events, report.rows, report.attachments
            )
        },
        &json!({
            "runtime": runtime, "events": report.events, "rows": report.rows,
            "attachments": report.attachments, "keys": keys,
        }),
    );
    Ok(Exit::Done)
}
