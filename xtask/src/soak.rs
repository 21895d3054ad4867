//! The rows of the scoreboard at their long counts: hours, on a machine that has nothing else to do.

use anyhow::Result;
use xshell::Shell;

use crate::reliability;

/// Runs the rows with every case where there is a fixed number of them, and with `times` times as
/// many where they are drawn.
pub(crate) fn run(shell: &Shell, times: u32) -> Result<()> {
    let _every = shell.push_env("FS_STORE_EVERY_CASE", "1");
    let _times = shell.push_env("FS_STORE_TIMES", times.to_string());
    reliability::run(shell)
}
