//! How a store is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use runtime_core::{RuntimeId, Tier};
use runtime_store::Limits;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::schema::SCHEMA_DEFAULT;
use crate::{OpenError, schema};

/// Bounds of a store in PostgreSQL beyond [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostgresLimits {
    /// Commits that wait for the connection; more callers wait for a place.
    pub queue_commits_max: usize,
    /// Commits that share one call of the server, and so one flush of its log.
    pub group_commits_max: usize,
    /// Bytes in one call, one commit more or less.
    pub group_bytes_max: usize,
    /// Connections for reads.
    pub reader_connections: usize,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How long one call may take before its connection counts as lost.
    pub call_timeout: Duration,
    /// How long a commit or a read is tried again while the server is away. A commit that was
    /// sent is then Indeterminate, any other Unavailable.
    pub patience: Duration,
    /// How often the head of the log is read while somebody waits for it: what a lost
    /// notification costs at most.
    pub recheck_interval: Duration,
}

impl Default for PostgresLimits {
    fn default() -> Self {
        Self {
            queue_commits_max: 1024,
            group_commits_max: 256,
            group_bytes_max: 4 * 1024 * 1024,
            reader_connections: 2,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            recheck_interval: Duration::from_millis(500),
        }
    }
}

/// How a store is opened. Its debug form leaves the password out.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(crate) server: Config,
    pub(crate) tls: bool,
    /// The certificates that sign the server's (PEM); with none, those of this machine.
    pub root_certificate: Option<PathBuf>,
    /// The runtime; with none, the only one that is there, or a fresh one.
    pub runtime: Option<RuntimeId>,
    /// The schema that holds the tables.
    pub schema: String,
    /// Whether tables and a runtime that are not there are made.
    pub create: bool,
    /// What an acknowledgement must survive at least; a server that does less is refused.
    pub tier: Tier,
    /// The bounds that every store has.
    pub limits: Limits,
    /// The bounds of a store in PostgreSQL.
    pub postgres_limits: PostgresLimits,
}

impl PostgresOptions {
    /// Reads a URL: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?runtime=ID`.
    ///
    /// Beside what the server's own programs take, `runtime` names the runtime and `schema` the
    /// schema. The connection is encrypted and the server's certificate checked, unless the
    /// server is on this machine or `sslmode=disable` is said; `sslrootcert` names a file of
    /// certificates to check it with.
    ///
    /// # Errors
    /// [`OpenError::Url`].
    pub fn new(url: &str) -> Result<Self, OpenError> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut own = Own::default();
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(malformed)?;
            if !own.take(name, &value)? {
                rest.push(pair);
            }
        }
        let address = match &rest[..] {
            [] => address.to_owned(),
            rest => format!("{address}?{}", rest.join("&")),
        };
        let mut server = Config::from_str(&address).map_err(malformed)?;
        let tls = own.tls.unwrap_or_else(|| !is_local(&server));
        server.ssl_mode(if tls {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        if server.get_application_name().is_none() {
            server.application_name("agent-runtime");
        }
        Ok(Self {
            server,
            tls,
            root_certificate: own.root_certificate,
            runtime: own.runtime,
            schema: own.schema.unwrap_or_else(|| SCHEMA_DEFAULT.to_owned()),
            create: true,
            tier: Tier::Power,
            limits: Limits::default(),
            postgres_limits: PostgresLimits::default(),
        })
    }

    /// Chooses the runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeId) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Says whether tables and a runtime that are not there are made; they are unless told
    /// otherwise.
    #[must_use]
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("hosts", &self.server.get_hosts())
            .field("database", &self.server.get_dbname())
            .field("tls", &self.tls)
            .field("runtime", &self.runtime)
            .field("schema", &self.schema)
            .field("create", &self.create)
            .field("tier", &self.tier)
            .field("limits", &self.limits)
            .field("postgres_limits", &self.postgres_limits)
            .finish_non_exhaustive()
    }
}

/// The parts of a URL that the client library does not know, or reads too leniently.
#[derive(Default)]
struct Own {
    runtime: Option<RuntimeId>,
    schema: Option<String>,
    root_certificate: Option<PathBuf>,
    tls: Option<bool>,
}

impl Own {
    fn take(&mut self, name: &str, value: &str) -> Result<bool, OpenError> {
        match name {
            "runtime" => self.runtime = Some(value.parse().map_err(malformed)?),
            "schema" => self.schema = Some(schema::checked_name(value)?.to_owned()),
            "sslrootcert" => self.root_certificate = Some(value.into()),
            "sslmode" => {
                self.tls = match value {
                    "disable" => Some(false),
                    "prefer" => None,
                    "require" | "verify-ca" | "verify-full" => Some(true),
                    other => {
                        return Err(malformed(format!(
                            "sslmode {other} is none of disable, prefer, require, verify-ca, verify-full"
                        )));
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A server on this machine: nobody stands between.
fn is_local(server: &Config) -> bool {
    server.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    })
}

fn malformed(reason: impl fmt::Display) -> OpenError {
    OpenError::Url {
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_server_is_spoken_to_in_secret_unless_told_otherwise() {
        let tls = |url: &str| PostgresOptions::new(url).unwrap().tls;
        for url in [
            "postgres://127.0.0.1/a",
            "postgres://localhost/a",
            "postgres://[::1]/a",
        ] {
            assert!(!tls(url), "{url}");
        }
        assert!(tls("postgres://db.example.com/a"));
        assert!(tls("postgres://localhost/a?sslmode=verify-full"));
        assert!(!tls("postgres://db.example.com/a?sslmode=disable"));
    }

    #[test]
    fn our_own_words_do_not_reach_the_server() {
        let url =
            "postgres://u@h/a?runtime=support&connect_timeout=3&schema=mine&sslrootcert=%2Fca";
        let options = PostgresOptions::new(url).unwrap();
        assert_eq!(options.runtime.unwrap().as_str(), "support");
        assert_eq!(options.schema, "mine");
        assert_eq!(options.root_certificate, Some("/ca".into()));
        assert_eq!(
            options.server.get_connect_timeout(),
            Some(&Duration::from_secs(3))
        );
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "postgres://u:hunter2@h/a?sslmode=perhaps",
            "postgres://u:hunter2@h/a?runtime=-",
            "postgres://u:hunter2@h/a?schema=a%22b",
            "postgres://u:hunter2@h/a?nonsense=1",
            "mysql://u:hunter2@h/a",
        ] {
            let error = PostgresOptions::new(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let options = PostgresOptions::new("postgres://u:hunter2@h/a").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
