//! `doctor`: what this place is like, before something goes wrong in it (U3).

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::core::{Classified, Tier};
use runtime::fs_store::{self, FsStore, OpenError, OpenReport};
use runtime::store::{KeyRingStore as _, Store};
use serde_json::{Value, json};

use crate::agents::ConfiguredAgents;
use crate::args::{Common, Flags};
use crate::exit::Exit;
use crate::open;
use crate::output::{Output, since, wire};
use crate::style::{Paint, Tone};
use crate::tool_servers::ToolServers;

/// With less room than this the store may not get far.
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// How good a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Fine,
    /// A person should know.
    Notice,
    /// It does not work, or does not keep its promise.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    told: String,
    details: Value,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, told: impl Into<String>, details: Value) -> Self {
        Self {
            name,
            verdict,
            told: told.into(),
            details,
        }
    }

    fn line(&self, paint: Paint) -> String {
        let (word, tone) = match self.verdict {
            Verdict::Fine => ("ok", Tone::Good),
            Verdict::Notice => ("note", Tone::Notice),
            Verdict::Wrong => ("wrong", Tone::Bad),
        };
        let word = paint.text(tone, format!("{word:<5}"));
        let name = paint.text(Tone::Strong, format!("{:<13}", self.name));
        format!(
            "{word}  {name}  {}",
            self.told.replace('\n', "\n                      ")
        )
    }

    fn value(&self) -> Value {
        let verdict = match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Notice => "note",
            Verdict::Wrong => "wrong",
        };
        json!({
            "check": self.name,
            "verdict": verdict,
            "message": self.told,
            "details": self.details,
        })
    }
}

/// Looks at everything; nothing is changed and nothing is started.
pub(crate) async fn doctor(flags: Flags, output: Output) -> Exit {
    let mut checks = vec![program(), platform()];
    match crate::common(flags) {
        Ok(common) => {
            checks.push(configuration(&common));
            match common.database() {
                Some(url) => checks.push(database(&url).await),
                None => checks.extend(directory(&common).await),
            }
        }
        Err(error) => {
            let error = wire(&error);
            let details = json!(error);
            checks.push(Check::new(
                "configuration",
                Verdict::Wrong,
                error.message,
                details,
            ));
        }
    }
    for check in &checks {
        output.print(|| check.line(output.paint()), &check.value());
    }
    match checks.iter().any(|check| check.verdict == Verdict::Wrong) {
        true => Exit::Error,
        false => Exit::Done,
    }
}

fn program() -> Check {
    let version = env!("CARGO_PKG_VERSION");
    let features = [
        ("genai", cfg!(feature = "genai")),
        ("mcp-http", cfg!(feature = "mcp-http")),
    ];
    let on = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name);
    let on: Vec<&str> = on.collect();
    let schema = fs_store::STORE_SCHEMA;
    let mut told = format!("agent-runtime {version}, store format {schema}");
    match on.is_empty() {
        true => told.push_str(", without optional features"),
        false => write!(told, ", with {}", on.join(", ")).expect("a text can be written to"),
    }
    let details = json!({ "version": version, "store_format": schema, "features": on });
    Check::new("program", Verdict::Fine, told, details)
}

fn platform() -> Check {
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let (verdict, words) = match system {
        "linux" => (Verdict::Fine, ""),
        "macos" => (Verdict::Notice, ": supported, and tested less than Linux"),
        _ => (Verdict::Wrong, ": not supported"),
    };
    let details = json!({ "system": system, "machine": machine });
    Check::new(
        "platform",
        verdict,
        format!("{system} on {machine}{words}"),
        details,
    )
}

fn configuration(common: &Common) -> Check {
    let file = common.configuration.file.as_deref();
    let file = file.map(crate::config::shown);
    let shown = file
        .clone()
        .unwrap_or_else(|| "no file; defaults, environment and flags".to_owned());
    let agents = ConfiguredAgents::new(
        Arc::clone(&common.configuration),
        &common.dir,
        ToolServers::new(),
    );
    match agents.check() {
        Ok(()) => {
            let warnings = crate::config::warnings(&common.configuration);
            let verdict = match warnings.is_empty() {
                true => Verdict::Fine,
                false => Verdict::Notice,
            };
            let told = std::iter::once(shown).chain(warnings.iter().cloned());
            let told = told.collect::<Vec<_>>().join("\n");
            Check::new(
                "configuration",
                verdict,
                told,
                json!({ "file": file, "warnings": warnings }),
            )
        }
        Err(error) => {
            let details = json!(error.to_wire());
            Check::new("configuration", Verdict::Wrong, error.to_string(), details)
        }
    }
}

async fn database(url: &str) -> Check {
    match crate::database::open(url, false).await {
        Ok(store) => {
            let tier = store.capabilities().tier;
            let runtime = store.identity().runtime.to_string();
            let told = format!("a PostgreSQL database with runtime {runtime}, tier {tier}");
            Check::new(
                "store",
                tier_verdict(tier),
                told,
                json!({ "runtime": runtime, "tier": tier }),
            )
        }
        Err(error) => {
            let error = wire(&error);
            let details = json!(error);
            Check::new("store", Verdict::Wrong, error.message, details)
        }
    }
}

async fn directory(common: &Common) -> Vec<Check> {
    let directory = &common.dir;
    let mut checks = vec![place(directory), file_system(directory), room(directory)];
    checks.push(lock(&common.store_dir()));
    checks.push(store(common).await);
    checks
}

/// The nearest folder that exists: where a directory is, or would be made.
fn existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    let exists = absolute.ancestors().find(|folder| folder.exists());
    let exists = exists.unwrap_or_else(|| Path::new("/"));
    exists
        .canonicalize()
        .unwrap_or_else(|_| exists.to_path_buf())
}

fn place(directory: &Path) -> Check {
    let name = "directory";
    let shown = directory.display();
    let details = json!({ "directory": shown.to_string(), "exists": directory.exists() });
    let metadata = match std::fs::metadata(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = existing(directory);
            if rustix::fs::access(&above, rustix::fs::Access::WRITE_OK).is_err() {
                let told = format!(
                    "{shown} cannot be made: {} cannot be written to",
                    above.display()
                );
                return Check::new(name, Verdict::Wrong, told, details);
            }
            let told = format!("{shown} does not exist yet; the first run makes it");
            return Check::new(name, Verdict::Fine, told, details);
        }
        Err(error) => {
            return Check::new(name, Verdict::Wrong, format!("{shown}: {error}"), details);
        }
        Ok(metadata) => metadata,
    };
    if !metadata.is_dir() {
        return Check::new(
            name,
            Verdict::Wrong,
            format!("{shown} is no directory"),
            details,
        );
    }
    let writable = rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        return Check::new(
            name,
            Verdict::Wrong,
            format!("{shown} cannot be written to"),
            details,
        );
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let told = format!("{shown} is open to others (mode {mode:o}): chmod 700 {shown}");
        return Check::new(name, Verdict::Notice, told, details);
    }
    Check::new(name, Verdict::Fine, shown.to_string(), details)
}

fn file_system(directory: &Path) -> Check {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(kind) = file_system_of(&existing(directory), &mounts) else {
        let told = "this system does not say which it is";
        return Check::new(
            "file system",
            Verdict::Notice,
            told,
            json!({ "kind": null }),
        );
    };
    let (verdict, words) = judge_file_system(&kind);
    let details = json!({ "kind": kind });
    Check::new("file system", verdict, format!("{kind}{words}"), details)
}

/// The kind of the file system that a folder is on: that of the longest mount point above it.
fn file_system_of(folder: &Path, mounts: &str) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let kind = after.split(' ').next()?;
        folder.starts_with(&point).then_some((point.len(), kind))
    });
    // Of two mounts at one point the later one is seen.
    let nearest = mounts.max_by_key(|(length, _)| *length)?;
    Some(nearest.1.to_owned())
}

/// What is known of a kind: whether locks and syncs mean there what the store needs.
fn judge_file_system(kind: &str) -> (Verdict, &'static str) {
    let is_remote = ["nfs", "cifs", "smb", "9p", "afs", "ceph", "fuse"];
    if kind == "tmpfs" || kind == "ramfs" {
        return (
            Verdict::Notice,
            ": in memory; everything is gone after a restart of the machine",
        );
    }
    if is_remote.iter().any(|remote| kind.starts_with(remote)) {
        let words = ": locks and syncs may not mean there what they mean on a disk; keep the store on a local one";
        return (Verdict::Notice, words);
    }
    (Verdict::Fine, "")
}

fn room(directory: &Path) -> Check {
    match rustix::fs::statvfs(existing(directory)) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let mebibytes = free / (1024 * 1024);
            let told = format!("{mebibytes} MiB free");
            let verdict = match free < FREE_BYTES_MIN {
                true => Verdict::Notice,
                false => Verdict::Fine,
            };
            Check::new("room", verdict, told, json!({ "free_bytes": free }))
        }
        Err(error) => Check::new("room", Verdict::Notice, error.to_string(), Value::Null),
    }
}

fn lock(store: &Path) -> Check {
    match fs_store::holder(store) {
        Ok(None) => Check::new("lock", Verdict::Fine, "free", json!({ "holder": null })),
        Ok(Some(holder)) => {
            let told = format!(
                "held by process {} since {}",
                holder.pid,
                since(holder.opened_at)
            );
            Check::new("lock", Verdict::Fine, told, json!({ "holder": holder }))
        }
        Err(error) => Check::new(
            "lock",
            Verdict::Wrong,
            error.to_string(),
            json!(error.to_wire()),
        ),
    }
}

async fn store(common: &Common) -> Check {
    let name = "store";
    let store = match FsStore::open_read_only(&open::options(common)) {
        Ok(store) => store,
        // Also while its first writer is still making it.
        Err(OpenError::NoStore { .. }) => {
            let told = "none yet; it is made with tier power";
            return Check::new(name, Verdict::Fine, told, json!({ "exists": false }));
        }
        Err(error) => {
            return Check::new(
                name,
                Verdict::Wrong,
                error.to_string(),
                json!(error.to_wire()),
            );
        }
    };
    let report = store.report();
    let tier = store.capabilities().tier;
    let runtime = store.identity().runtime.to_string();
    let mut told = format!(
        "runtime {runtime}, tier {tier}, {} events in {} commits",
        report.events, report.commits
    );
    let mut verdict = tier_verdict(tier).max(found(report, &mut told));
    let mut details = json!({ "runtime": runtime, "tier": tier, "report": report });
    // A reader does without them, whoever opens the store for writing does not.
    if let Err(error) = store.key_ring().await {
        told.push_str(&format!("\n{error}: see `verify` and `repair`"));
        verdict = Verdict::Wrong;
        details["keys"] = json!(error.to_wire());
    }
    Check::new(name, verdict, told, details)
}

/// What opening found, told in words.
fn found(report: &OpenReport, told: &mut String) -> Verdict {
    let mut verdict = Verdict::Fine;
    let mut tell = |line: &str, worse: Verdict| {
        told.push('\n');
        told.push_str(line);
        verdict = verdict.max(worse);
    };
    if !report.damage.is_empty() {
        let line = format!(
            "{} damaged places: see `verify` and `repair`",
            report.damage.len()
        );
        tell(&line, Verdict::Wrong);
    }
    if report.cut.is_some() {
        let line = "it ends in a commit that was cut off; the next opening for writing cuts it and keeps the bytes aside";
        tell(line, Verdict::Notice);
    }
    if !report.foreign.is_empty() {
        let line = format!("files that are not its own: {}", report.foreign.join(", "));
        tell(&line, Verdict::Notice);
    }
    verdict
}

fn tier_verdict(tier: Tier) -> Verdict {
    match tier {
        Tier::Power | Tier::Replicated => Verdict::Fine,
        _ => Verdict::Notice,
    }
}

#[cfg(test)]
mod tests {
    use runtime::fs_store::Damage;

    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 0:26 / /mnt/two\\040words rw shared:1 - nfs4 host:/x rw
";

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount_point() {
        let kind = |folder: &str| file_system_of(Path::new(folder), MOUNTS);
        assert_eq!(kind("/srv/data").as_deref(), Some("ext4"));
        assert_eq!(kind("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmpx").as_deref(), Some("ext4"));
        assert_eq!(kind("/mnt/two words/x").as_deref(), Some("nfs4"));
        assert_eq!(file_system_of(Path::new("/"), ""), None);
    }

    #[test]
    fn a_file_system_that_may_not_keep_the_promise_is_told() {
        for (kind, verdict) in [
            ("ext4", Verdict::Fine),
            ("xfs", Verdict::Fine),
            ("btrfs", Verdict::Fine),
            ("tmpfs", Verdict::Notice),
            ("nfs4", Verdict::Notice),
            ("fuse.sshfs", Verdict::Notice),
        ] {
            assert_eq!(judge_file_system(kind).0, verdict, "{kind}");
        }
    }

    #[test]
    fn what_opening_found_is_judged() {
        let mut told = String::new();
        assert_eq!(found(&OpenReport::default(), &mut told), Verdict::Fine);
        assert_eq!(told, "");
        let mut report = OpenReport::default();
        report.foreign = vec!["note.txt".to_owned()];
        assert_eq!(found(&report, &mut told), Verdict::Notice);
        report.damage = vec![Damage::SegmentHeader { segment: 1 }];
        assert_eq!(found(&report, &mut told), Verdict::Wrong);
    }
}
