//! Real tool servers of others, which `cargo xtask mcp-servers` installs below `target/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A tool server of the protocol's own collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealServer {
    /// Shows every feature of the protocol (npm).
    Everything,
    /// Reads and writes below the directories given as arguments (npm).
    Filesystem,
    /// A graph of facts in the file that `MEMORY_FILE_PATH` names (npm).
    Memory,
    /// The time of day in any zone (PyPI).
    Time,
    /// A repository; needs `git` (PyPI).
    Git,
}

/// How an installed server is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledServer {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments; those of the server follow.
    pub args: Vec<String>,
    /// Variables that it needs.
    pub env: Vec<(String, String)>,
}

impl RealServer {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Everything,
        Self::Filesystem,
        Self::Memory,
        Self::Time,
        Self::Git,
    ];

    /// Returns the name, for configuration and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Filesystem => "filesystem",
            Self::Memory => "memory",
            Self::Time => "time",
            Self::Git => "git",
        }
    }

    /// Finds the server. Where it is not installed, says so on standard error and returns none:
    /// the test is skipped, and reported as such.
    ///
    /// # Panics
    /// Under `CI=true` a server that is not installed is a failure.
    #[must_use]
    pub fn find(self) -> Option<InstalledServer> {
        let found = self.found(&folder());
        if found.is_none() {
            let missing = format!(
                "tool server {} is not installed: cargo xtask mcp-servers",
                self.name()
            );
            assert!(
                std::env::var_os("CI") != Some(OsString::from("true")),
                "{missing}"
            );
            report(&missing);
        }
        found
    }

    fn found(self, folder: &Path) -> Option<InstalledServer> {
        match self {
            Self::Everything | Self::Filesystem | Self::Memory => {
                let package = format!("@modelcontextprotocol/server-{}", self.name());
                let modules = folder.join("node_modules");
                let script = modules.join(package).join("dist").join("index.js");
                let program = modules.join("node").join("bin").join("node");
                let exists = script.exists() && program.exists();
                exists.then(|| InstalledServer {
                    program,
                    args: vec![text(&script)],
                    env: Vec::new(),
                })
            }
            Self::Time | Self::Git => {
                let module = format!("mcp_server_{}", self.name());
                let packages = folder.join("python");
                let exists = packages.join(&module).exists();
                exists.then(|| InstalledServer {
                    program: PathBuf::from("python3"),
                    args: vec!["-m".to_owned(), module],
                    env: vec![("PYTHONPATH".to_owned(), text(&packages))],
                })
            }
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mcp-servers")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[allow(clippy::print_stderr, reason = "a skipped test is to be seen")]
fn report(missing: &str) {
    eprintln!("SKIPPED: {missing}");
}
