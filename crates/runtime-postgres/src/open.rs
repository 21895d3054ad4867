//! Opening: the server is fit, the tables are there, the runtime is found or made.

use std::fmt::Write as _;
use std::time::Instant;

use runtime_core::{Random, RuntimeId, Tier, Timestamp};
use runtime_store::{StoreIdentity, SystemRandom};
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::clock::DatabaseClock;
use crate::connect::Connector;
use crate::read::LATEST;
use crate::schema::{self, unreachable};
use crate::{OpenError, PostgresOptions};

/// What opening found out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) key: i32,
    pub(crate) identity: StoreIdentity,
    pub(crate) tier: Tier,
    pub(crate) head: u64,
    /// The latest time in the id of a commit that is remembered, in milliseconds.
    pub(crate) latest_id: u64,
    pub(crate) clock: DatabaseClock,
}

/// How many runtimes an error names.
const RUNTIMES_NAMED: i64 = 8;

pub(crate) async fn open(
    connector: &Connector,
    options: &PostgresOptions,
) -> Result<Opened, OpenError> {
    let session = connector.connect(watch::Sender::default()).await;
    let mut session = session.map_err(|failure| OpenError::Unreachable {
        reason: failure.reason(),
    })?;
    let client = &mut session.client;
    let encoding = setting(client, "server_encoding").await?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { found: encoding });
    }
    let tier = tier(client, options.tier).await?;
    schema::prepare(client, &options.schema, options.create).await?;
    let clock = clock(client).await?;
    let id = match &options.runtime {
        Some(runtime) => Some(runtime.clone()),
        None => only_runtime(client).await?,
    };
    let (key, identity, head) = find_or_make(client, options, id, &clock).await?;
    let latest = client.query_one(LATEST, &[&key]).await;
    let latest = latest.and_then(|row| row.try_get(0)).map_err(unreachable)?;
    session.close().await;
    Ok(Opened {
        key,
        identity,
        tier,
        head,
        latest_id: crate::call::unsigned(latest),
        clock,
    })
}

async fn setting(client: &Client, name: &str) -> Result<String, OpenError> {
    let row = client
        .query_one("SELECT current_setting($1)", &[&name])
        .await;
    row.and_then(|row| row.try_get(0)).map_err(unreachable)
}

/// What an acknowledgement of this server survives. Our sessions commit synchronously.
async fn tier(client: &Client, wanted: Tier) -> Result<Tier, OpenError> {
    let fsync = setting(client, "fsync").await?;
    let standbys = setting(client, "synchronous_standby_names").await?;
    let (found, setting) = match (fsync.as_str(), standbys.as_str()) {
        ("on", "") => (Tier::Power, "synchronous_standby_names is empty"),
        ("on", _) => (Tier::Replicated, "synchronous_standby_names is set"),
        _ => (Tier::Crash, "fsync is off"),
    };
    if found < wanted {
        return Err(OpenError::Tier {
            wanted,
            found,
            setting: setting.to_owned(),
        });
    }
    Ok(found)
}

async fn clock(client: &Client) -> Result<DatabaseClock, OpenError> {
    let asked = Instant::now();
    let now = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let row = client.query_one(now, &[]).await.map_err(unreachable)?;
    let now: i64 = row.try_get(0).map_err(unreachable)?;
    Ok(DatabaseClock::new(
        crate::call::unsigned(now),
        asked.elapsed(),
    ))
}

/// The runtime that is meant when none is named.
async fn only_runtime(client: &Client) -> Result<Option<RuntimeId>, OpenError> {
    let some = "SELECT id FROM runtime ORDER BY key LIMIT $1";
    let rows = client
        .query(some, &[&RUNTIMES_NAMED])
        .await
        .map_err(unreachable)?;
    let ids: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let ids = ids.map_err(unreachable)?;
    match &ids[..] {
        [] => Ok(None),
        [id] => Ok(Some(id.parse().map_err(|_| OpenError::SchemaDiffers {
            schema: "of this database".to_owned(),
            version: schema::SCHEMA_VERSION,
        })?)),
        _ => Err(OpenError::SeveralRuntimes { runtimes: ids }),
    }
}

async fn find_or_make(
    client: &Client,
    options: &PostgresOptions,
    id: Option<RuntimeId>,
    clock: &DatabaseClock,
) -> Result<(i32, StoreIdentity, u64), OpenError> {
    if !options.create {
        let Some(id) = id else {
            return Err(no_runtime(options));
        };
        let found = find(client, id).await?;
        return found.ok_or_else(|| no_runtime(options));
    }
    let id = id.unwrap_or_else(|| fresh_runtime_id(clock));
    if let Some(found) = find(client, id.clone()).await? {
        return Ok(found);
    }
    // Another process may make the same one at the same time: the first does.
    let make = "INSERT INTO runtime (id, lineage) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
    let made = client
        .execute(make, &[&id.as_str(), &fresh_lineage()])
        .await;
    made.map_err(unreachable)?;
    let found = find(client, id).await?;
    found.ok_or_else(|| no_runtime(options))
}

async fn find(
    client: &Client,
    id: RuntimeId,
) -> Result<Option<(i32, StoreIdentity, u64)>, OpenError> {
    let find = "SELECT key, lineage, position FROM runtime WHERE id = $1";
    let row = client
        .query_opt(find, &[&id.as_str()])
        .await
        .map_err(unreachable)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let read = || {
        let identity = StoreIdentity {
            runtime: id,
            lineage: row.try_get(1)?,
        };
        Ok((
            row.try_get(0)?,
            identity,
            crate::call::unsigned(row.try_get(2)?),
        ))
    };
    read().map(Some).map_err(unreachable)
}

fn no_runtime(options: &PostgresOptions) -> OpenError {
    OpenError::NoRuntime {
        runtime: options.runtime.clone(),
        schema: options.schema.clone(),
    }
}

fn fresh_runtime_id(clock: &DatabaseClock) -> RuntimeId {
    use runtime_core::Clock as _;
    let now: Timestamp = clock.now();
    RuntimeId::generate(now, SystemRandom.ten())
}

pub(crate) fn fresh_lineage() -> String {
    let mut text = String::new();
    for byte in SystemRandom.ten() {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    text
}
