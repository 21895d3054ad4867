//! Where tests find a server that runs already.

use std::path::PathBuf;

/// Names the server that tests may fill; `cargo xtask services run` sets it.
pub const URL_VARIABLE: &str = "AGENT_RUNTIME_TEST_POSTGRES";

/// Where `cargo xtask services up` leaves the URL of the server that it started.
#[must_use]
pub fn kept_url_file() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.into(), PathBuf::from);
    target.join("services").join("postgres.url")
}

/// Leaves the URL for tests to find.
///
/// # Errors
/// The file cannot be written.
pub fn keep_url(url: &str) -> std::io::Result<()> {
    let file = kept_url_file();
    std::fs::create_dir_all(file.parent().expect("the file lies in a folder"))?;
    std::fs::write(file, url)
}

/// Returns the server for a test: the variable [`URL_VARIABLE`], else the one that
/// `cargo xtask services up` has started. Without either it says so on standard error and
/// returns none; the test then ends.
///
/// # Panics
/// Without a server where `CI` is `true`: there a skipped test would pass for a run one.
#[must_use]
pub fn url_for_tests() -> Option<String> {
    let named = std::env::var(URL_VARIABLE).ok();
    let kept = || std::fs::read_to_string(kept_url_file()).ok();
    let found = named.or_else(kept).filter(|url| !url.is_empty());
    if found.is_none() {
        let missing = "SKIPPED: no PostgreSQL server; start one by `cargo xtask services up`";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        report(missing);
    }
    found
}

#[allow(clippy::print_stderr, reason = "a skipped test is reported")]
fn report(line: &str) {
    eprintln!("{line}");
}
