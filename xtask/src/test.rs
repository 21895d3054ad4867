//! Tests, documentation tests, and the tests over simulated files.
//!
//! `--all-features` is not used: it would switch on `simulation`, which replaces the real file
//! system in the tests that are about it. The ordinary run has every other feature; the simulated
//! crates run again, alone, with that feature. The reliability rows are left to
//! `cargo xtask reliability`.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{reliability, workspace};

/// Runs the tests.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let features = workspace::ordinary_features()?;
    tests(shell, &["--workspace", "--features", &features])?;
    cmd!(shell, "cargo test --doc --workspace --features {features}").run()?;
    for package in workspace::simulated_crates()? {
        tests(
            shell,
            &["--package", &package, "--features", workspace::SIMULATION],
        )?;
    }
    Ok(())
}

fn tests(shell: &Shell, selection: &[&str]) -> Result<()> {
    let rows = reliability::filters();
    if workspace::has_nextest(shell) {
        let filter = format!("not test(/{}/)", rows.join("|"));
        cmd!(
            shell,
            "cargo nextest run {selection...} --no-fail-fast --no-tests pass --filterset {filter}"
        )
        .run()?;
    } else {
        // Some tests start an example as their child; nextest builds them by itself.
        cmd!(shell, "cargo build {selection...} --examples").run()?;
        let skips = rows.iter().flat_map(|row| ["--skip", row]);
        cmd!(
            shell,
            "cargo test {selection...} --no-fail-fast --lib --bins --tests --examples -- {skips...}"
        )
        .run()?;
    }
    Ok(())
}
