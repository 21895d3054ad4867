//! Failures of a real disk (R7): errors of the system at the n-th call, and a disk that is full.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::lives::{self, Found, Place, Told};
use crate::strace;
use crate::support::{in_memory, on_all_cores, print_row};

const THIS: &str = "failures::r7_a_failed_call_stops_the_store_and_loses_nothing";
/// Enough to reach every case.
const STEPS: u64 = 150;

/// The disk, the user's share of it, or the file is full: each is no room.
const NO_ROOM: [&str; 3] = ["ENOSPC", "EDQUOT", "EFBIG"];

/// A call, which of them, and the error.
type Case = (&'static str, u32, &'static str);

fn cases() -> Vec<Case> {
    let places: [(&str, &[u32]); 3] = [
        ("pwrite64", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 40, 91]),
        ("fdatasync", &[1, 2, 3, 4, 8, 20, 60]),
        ("/^rename", &[1, 2, 3, 9, 30]),
    ];
    let each = places.into_iter();
    let each = each.flat_map(|(call, places)| places.iter().map(move |nth| (call, *nth)));
    let failing = |(call, nth)| ["EIO", NO_ROOM[0]].map(|error| (call, nth, error));
    // What counts as no room is tried where ENOSPC is.
    let writes = places[0].1.iter();
    let full = writes.flat_map(|nth| NO_ROOM[1..].iter().map(|error| ("pwrite64", *nth, *error)));
    // Nothing has failed if the call is only to be made again.
    let interrupted = [2, 5, 20].map(|nth| ("pwrite64", nth, "EINTR"));
    each.flat_map(failing)
        .chain(full)
        .chain(interrupted)
        .collect()
}

/// R7, S5: whatever fails, the error is typed, nothing is written or synced again, the store takes
/// nothing more, and what was acknowledged is there when it is opened again.
#[test]
fn r7_a_failed_call_stops_the_store_and_loses_nothing() {
    if lives::lives_here() || !strace::is_there() {
        return;
    }
    let started = Instant::now();
    let cases = cases();
    let results = on_all_cores(0..cases.len() as u64, |case| {
        let case = cases[usize::try_from(case).unwrap()];
        fail(case).map_err(|broken| format!("{case:?}: {broken}"))
    });
    let mut sum = Found::default();
    for result in results {
        sum.add(result.unwrap());
    }
    println!("R7-calls met {sum:?}");
    assert!(
        sum.recorded > 1_000 && sum.in_doubt + sum.again > 0,
        "{sum:?}"
    );
    assert!(UNFILLED.load(Ordering::Relaxed) > 0, "every case had room");
    print_row("R7-calls", cases.len(), started);
}

/// How often it was only filling ahead that found no room.
static UNFILLED: AtomicU32 = AtomicU32::new(0);

fn fail((call, nth, error): Case) -> Result<Found, String> {
    let directory = in_memory();
    let place = Place::tiny(directory.path());
    let log = directory.path().join("calls");
    let what = format!("error={error}");
    let tracer = strace::words(call, &what, nth, &log.display().to_string());
    let mut command = lives::command(&tracer, THIS, place, 0, None);
    let mut child = lives::ends_after(&mut command, STEPS).spawn().unwrap();
    let told = lives::listen(&mut child, 0, |_| ());
    child.wait().unwrap();
    let calls = std::fs::read_to_string(&log).unwrap();
    // Each thread counts for itself, so it may be several.
    let injected = calls.lines().filter(|line| line.contains("(INJECTED)"));
    let injected: Vec<&str> = injected.collect();
    let unfilled = |line: &str| NO_ROOM.contains(&error) && call == "pwrite64" && fills(line);
    let met = injected.iter().filter(|line| unfilled(line)).count();
    UNFILLED.fetch_add(u32::try_from(met).unwrap(), Ordering::Relaxed);
    // What readers beside the writer may know is a hint, a checkpoint is a cache, a call may be
    // made again, and what must be written may still find room.
    let is_harmless = |line: &str| {
        let beside = ["/store/durable>", "/checkpoints/"];
        error == "EINTR" || unfilled(line) || beside.iter().any(|name| line.contains(name))
    };
    match injected.iter().find(|line| !is_harmless(line)) {
        Some(failed) => {
            stopped(&told)?;
            let mut after = calls.lines().skip_while(|line| line != failed).skip(1);
            if let Some(again) = after.find(|line| line.contains("/store/")) {
                return Err(format!("after {failed} came {again}"));
            }
        }
        None if injected.is_empty() => return Err("the call was not reached".to_owned()),
        None if told.ended && told.failures.is_empty() => {}
        None => return Err(format!("{injected:?} broke it: {told:?}")),
    }
    lives::look(place, 0, &told, None)
}

/// Says whether a write is no frame and no header of a segment: what one is filled ahead with.
fn fills(line: &str) -> bool {
    line.contains("/segments/") && !line.contains("\"AR")
}

/// Checks that a life has stopped with typed errors.
fn stopped(told: &Told) -> Result<(), String> {
    let failures: Vec<&str> = told.failures.iter().map(String::as_str).collect();
    match failures[..] {
        ["refused store_io"] => Ok(()),
        [
            "failed commit_indeterminate" | "failed store_read_only",
            "then store_read_only",
        ] => Ok(()),
        _ => Err(format!("it has told {told:?}")),
    }
}

/// A small disk of its own; dropping it takes it away.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may mount nothing.
    fn mount(at: PathBuf, kib: u64) -> Option<Self> {
        let options = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&at)
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(at))
    }

    fn grow(&self) {
        let grown = Command::new("mount")
            .args(["-o", "remount,size=16m"])
            .arg(&self.0)
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// R7, S5: a disk that is full. Opening on it again is refused or goes well, and loses nothing.
#[test]
fn r7_a_full_disk_stops_the_store_and_loses_nothing() {
    let started = Instant::now();
    let sizes = [4, 16, 40, 64, 128, 256];
    let mut cases = 0;
    for kib in sizes {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = SmallDisk::mount(lives::disk(place.path()), kib) else {
            println!("SKIPPED: only root may mount a small disk");
            return;
        };
        fill(Place::tiny(place.path()), &disk)
            .unwrap_or_else(|broken| panic!("{kib} KiB: {broken}"));
        cases += 1;
    }
    print_row("R7-disk", cases, started);
}

fn fill(place: Place<'_>, disk: &SmallDisk) -> Result<(), String> {
    let mut child = lives::command(&[], THIS, place, 0, None).spawn().unwrap();
    let told = lives::listen(&mut child, 0, |_| ());
    child.wait().unwrap();
    stopped(&told)?;
    match runtime_fs_store::FsStore::open(&place.options()) {
        Ok(_) => {}
        Err(error) if runtime_core::Classified::code(&error) == "store_io" => {}
        Err(error) => return Err(format!("opened while full: {error}")),
    }
    disk.grow();
    lives::look(place, 0, &told, None).map(|_| ())
}
