//! Servers that outlived the process that started them (E7).
//!
//! A server is recorded before it is used: its process, its start time, and those of the process
//! that owns it. Numbers of processes are used again; a start time is not. Whoever opens the same
//! directory next ends those whose owner is gone, and whom they have left behind: a server that
//! is recorded gets a variable that names its owner, and so does whatever it starts.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

/// The variable by which a process is known to come from a recorded server.
const OWNER: &str = "AGENT_RUNTIME_OWNER";

/// A server that was ended because its owner was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survivor {
    /// The name of its entry.
    pub server: String,
    /// The number of its process.
    pub process: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    server: String,
    process: u32,
    started: String,
    owner: u32,
    owner_started: String,
}

/// A record on disk; dropping it takes it away.
#[derive(Debug)]
pub(crate) struct ProcessRecord(PathBuf);

impl ProcessRecord {
    /// Writes down a process of ours that was just started.
    pub(crate) fn write(directory: &Path, process: u32, server: &str) -> io::Result<Self> {
        let owner = std::process::id();
        let started = |process| {
            let gone = || io::Error::other("the start time of a process is not known");
            start_time(process).ok_or_else(gone)
        };
        let recorded = Recorded {
            server: server.to_owned(),
            process,
            started: started(process)?,
            owner,
            owner_started: started(owner)?,
        };
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{process}.json"));
        let unfinished = directory.join(format!("{process}.new"));
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(&recorded)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        fs::File::open(directory)?.sync_all()?;
        Ok(Self(path))
    }
}

impl Drop for ProcessRecord {
    fn drop(&mut self) {
        // One that stays names a process that is gone: it is taken away at the next opening.
        let _ = fs::remove_file(&self.0);
    }
}

/// Ends the servers recorded in a directory whose owner is gone, with all of their process
/// groups, and returns them. Servers of a process that still runs are left alone.
///
/// Call it before any turn resumes: a survivor might still be doing what a turn is about to
/// repeat, or to report in doubt.
///
/// # Errors
/// The directory cannot be read. That it does not exist is none.
pub fn end_survivors(directory: &Path) -> io::Result<Vec<Survivor>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ended = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_record = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let Some(recorded) = is_record.then(|| read(&path)).flatten() else {
            continue;
        };
        if start_time(recorded.owner).as_ref() == Some(&recorded.owner_started) {
            continue;
        }
        let found = match start_time(recorded.process) {
            Some(started) if started == recorded.started => {
                end_group(recorded.process);
                true
            }
            // The number was given to another process: none of the group is left, since a
            // number stays taken while a group has it.
            Some(_) => false,
            None => end_left_behind(&recorded),
        };
        if found {
            ended.push(Survivor {
                server: recorded.server,
                process: recorded.process,
            });
        }
        // Gone by now, whoever took it away.
        let _ = fs::remove_file(&path);
    }
    Ok(ended)
}

/// The variable of a server that this process starts and records; none if its own start time is
/// not known.
pub(crate) fn owner_variable() -> Option<(&'static str, String)> {
    let owner = std::process::id();
    Some((OWNER, mark(owner, &start_time(owner)?)))
}

fn mark(owner: u32, started: &str) -> String {
    format!("{owner}-{started}")
}

/// Ends what a server that is gone has left in its group; says whether there was something. Only
/// what has the owner's mark: once a whole group is gone, its number may be that of another's.
#[cfg(target_os = "linux")]
fn end_left_behind(recorded: &Recorded) -> bool {
    let owner = mark(recorded.owner, &recorded.owner_started);
    let variable = format!("{OWNER}={owner}");
    let members = fs::read_dir("/proc").into_iter().flatten().flatten();
    let members = members.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = false;
    for member in members.filter(|&member| group_of(member) == Some(recorded.process)) {
        let variables = fs::read(format!("/proc/{member}/environ")).unwrap_or_default();
        let mut variables = variables.split(|&byte| byte == 0);
        if variables.any(|found| found == variable.as_bytes()) {
            found = true;
            let member = i32::try_from(member).ok().and_then(Pid::from_raw);
            // An error means that it ended meanwhile.
            let _ = member.map(|member| kill_process(member, Signal::KILL));
        }
    }
    found
}

/// Elsewhere the variables of another process cannot be read without more rights.
#[cfg(not(target_os = "linux"))]
fn end_left_behind(_: &Recorded) -> bool {
    false
}

/// The group of a running process.
#[cfg(target_os = "linux")]
fn group_of(process: u32) -> Option<u32> {
    stat_words(process, |mut words| words.nth(1)?.parse().ok())
}

/// Reads what stands behind the state in the record of a running process.
#[cfg(target_os = "linux")]
fn stat_words<T>(
    process: u32,
    read: impl FnOnce(std::str::SplitAsciiWhitespace<'_>) -> Option<T>,
) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in parentheses and may hold anything; the state is the next word.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut words = after_name.split_ascii_whitespace();
    let state = words.next()?;
    // What has ended and was not waited for yet does nothing any more.
    (state != "Z" && state != "X").then(|| read(words))?
}

fn read(path: &Path) -> Option<Recorded> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn end_group(process: u32) {
    let group = i32::try_from(process).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // An error means that it ended meanwhile.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Returns when a running process started, in whatever unit the system has; none if it has ended.
#[cfg(target_os = "linux")]
fn start_time(process: u32) -> Option<String> {
    stat_words(process, |mut words| words.nth(18).map(str::to_owned))
}

#[cfg(not(target_os = "linux"))]
fn start_time(process: u32) -> Option<String> {
    let mut command = std::process::Command::new("ps");
    let output = command
        .args(["-o", "lstart=", "-p", &process.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
