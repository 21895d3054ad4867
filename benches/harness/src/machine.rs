//! The machine and its load, as far as a figure needs them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Cores, memory and the load of the last minute; what cannot be read is null.
pub(crate) fn describe() -> Value {
    let cores = std::thread::available_parallelism().map(usize::from).ok();
    json!({ "cores": cores, "memory_gib": memory_gib(), "load": load() })
}

/// The processor time that this process has taken.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}

fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

fn memory_gib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.div_ceil(1024 * 1024))
}
