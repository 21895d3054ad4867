//! One private server: made, started, restarted, stopped.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::StartError;
use crate::account::Account;

/// How many connections the server takes.
pub const CONNECTIONS_MAX: u32 = 300;

/// A free port may be taken before the server has it.
const START_ATTEMPTS: u32 = 5;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions, writes a checkpoint, stops.
    Fast,
    /// Stops as after a loss of power: the next start recovers from the log.
    Immediate,
}

impl StopMode {
    const fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A running server. Dropping it stops it and removes its directory, unless it was
/// [kept](Self::keep).
#[derive(Debug)]
pub struct PostgresServer {
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
    account: Option<Account>,
    kept: bool,
}

impl PostgresServer {
    /// Makes a server in a temporary directory of its own and starts it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        let binaries = binaries().ok_or(StartError::NoBinaries)?;
        let account = Account::unprivileged()?;
        let directory = fresh_directory()?;
        if let Some(account) = account {
            account.own(&directory)?;
        }
        let mut server = Self {
            binaries,
            directory,
            port: 0,
            account,
            kept: false,
        };
        let data = server.data();
        let data = data.to_string_lossy();
        server.run(
            "initdb",
            &[
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
                &data,
            ],
        )?;
        for attempt in 1.. {
            server.port = free_port()?;
            match server.begin() {
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => {}
                Ok(()) => break,
            }
        }
        Ok(server)
    }

    /// Takes over a server that another process has [kept](Self::keep), to stop it.
    #[must_use]
    pub fn kept_in(directory: &Path) -> Option<Self> {
        let pid = std::fs::read_to_string(directory.join("data/postmaster.pid")).ok()?;
        // The fourth line of the file is the port.
        let port = pid.lines().nth(3)?.trim().parse().ok()?;
        Some(Self {
            binaries: binaries()?,
            directory: directory.to_path_buf(),
            port,
            account: Account::unprivileged().ok()?,
            kept: false,
        })
    }

    /// Leaves it running when this value is dropped; returns its directory.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.directory.clone()
    }

    /// Returns the URL of its database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory that holds it all.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Lets it speak TLS, by a certificate for `localhost` that is made here and lies in the file
    /// that is returned; then restarts it. It needs the program `openssl`.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn encrypt(&self) -> Result<PathBuf, StartError> {
        let data = self.data();
        let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
        let subject = ["-subj", "/CN=localhost", "-days", "2"];
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .args(subject)
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .output()?;
        if !made.status.success() {
            return Err(StartError::Program {
                program: "openssl".into(),
                message: String::from_utf8_lossy(&made.stderr).into_owned(),
            });
        }
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        if let Some(account) = self.account {
            account.own(&key)?;
            account.own(&certificate)?;
        }
        let settings = data.join("postgresql.auto.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(settings)?;
        file.write_all(b"ssl = on\n")?;
        self.restart(StopMode::Fast)?;
        Ok(certificate)
    }

    /// Stops it and starts it again, on the same port.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn restart(&self, mode: StopMode) -> Result<(), StartError> {
        self.stop(mode)?;
        self.begin()
    }

    /// Stops it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn stop(&self, mode: StopMode) -> Result<(), StartError> {
        let data = self.data();
        self.run(
            "pg_ctl",
            &[
                "stop",
                "-w",
                "-D",
                &data.to_string_lossy(),
                "-m",
                mode.word(),
            ],
        )
    }

    /// Starts it where it was before.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn begin(&self) -> Result<(), StartError> {
        let data = self.data();
        let log = self.directory.join("log");
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} \
             -c max_connections={CONNECTIONS_MAX}",
            self.port,
            self.directory.display()
        );
        let arguments = [
            "start",
            "-w",
            "-D",
            &data.to_string_lossy(),
            "-l",
            &log.to_string_lossy(),
            "-o",
            &options,
        ];
        self.run("pg_ctl", &arguments)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), StartError> {
        let program = self.binaries.join(program);
        let errors = self.directory.join("errors");
        let mut command = Command::new(&program);
        // The server inherits what its starter had open, so it gets files and no pipes: whoever
        // waited for the end of a pipe would wait for the end of the server.
        let file = std::fs::File::create(&errors)?;
        command
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        let status = command.status().map_err(|error| StartError::Program {
            program: program.clone(),
            message: error.to_string(),
        })?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&errors).unwrap_or_default();
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        Err(StartError::Program {
            program,
            message: format!("{status}\n{said}\n{log}"),
        })
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // There is nobody to tell; a server that does not stop is seen by its directory.
        if self.stop(StopMode::Immediate).is_ok() || !self.data().join("postmaster.pid").exists() {
            let _removed = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn fresh_directory() -> Result<PathBuf, StartError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("postgres-for-tests-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        match std::fs::create_dir(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The newest version below the folder of Debian, then what `pg_config` says, then the path.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    versions.sort_by(|first, second| second.cmp(first));
    let debian = versions.into_iter().map(|(_, path)| path);
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian
        .chain(from_pg_config())
        .chain(std::env::split_paths(&path))
        .find(|folder| {
            ["initdb", "pg_ctl", "postgres"]
                .iter()
                .all(|program| folder.join(program).is_file())
        })
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_restarts_and_leaves_nothing_behind() {
        let server = match PostgresServer::start() {
            Err(StartError::NoBinaries) => return assert!(crate::url_for_tests().is_none()),
            started => started.unwrap(),
        };
        for mode in [StopMode::Fast, StopMode::Immediate] {
            server.restart(mode).unwrap();
            std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        }
        let directory = server.directory().to_path_buf();
        drop(server);
        assert!(!directory.exists(), "{} is left", directory.display());
    }
}
