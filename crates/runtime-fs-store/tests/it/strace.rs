//! Signals and errors at the n-th call of the system, by `strace`.

use std::process::{Command, Stdio};

/// The words that run a program under `strace`, with `what` happening to the `nth` call of `call`
/// of any of its threads. What it sees of that call goes to `log`.
pub(crate) fn words(call: &str, what: &str, nth: u32, log: &str) -> Vec<String> {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:{what}:when={nth}");
    let mut words = vec![
        "strace", "-f", "-y", "-qq", "-o", log, "-e", &trace, "-e", &inject,
    ];
    // Calls that are not looked at cost nothing then; but a signal does not come that way.
    if !what.starts_with("signal") {
        words.push("--seccomp-bpf");
    }
    words.into_iter().map(str::to_owned).collect()
}

/// Says whether programs can be traced here. Where not, that is reported, and in continuous
/// integration it is a failure.
pub(crate) fn is_there() -> bool {
    let traced = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "true",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = traced.is_ok_and(|status| status.success());
    if !is_there {
        let missing = "SKIPPED: strace is not there, or may trace nothing here";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        println!("{missing}");
    }
    is_there
}
