//! What a key is made of (M3), and the bounds as they are by default (M2, M4, M5).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime_mcp_cache::{Authorisation, CacheConfig, CacheKey, Owner, State};
use serde_json::{Value, json};

use crate::world::{Page, Play, Server, World};

fn key(owner: Owner, server: &str, connection: &Value, account: Option<&str>) -> CacheKey {
    let authorisation = account.map_or(Authorisation::Anonymous, |account| {
        Authorisation::Account(account.to_owned())
    });
    CacheKey::new(owner, server, connection, &authorisation)
}

fn session(id: &str) -> Owner {
    Owner::Session(id.parse().expect("an id"))
}

#[test]
fn m3_every_part_of_a_connection_and_whom_it_is_for_makes_another_key() {
    let connection = json!({
        "type": "stdio", "command": "server", "args": ["a", "b"], "env": {"A": "1"},
        "url": "https://one.example/mcp", "headers": {"X": "1"},
    });
    let changed = |member: &str, value: Value| {
        let mut connection = connection.clone();
        connection[member] = value;
        connection
    };
    let connections = [
        connection.clone(),
        changed("type", json!("http")),
        changed("command", json!("server2")),
        changed("args", json!(["a", "b", "c"])),
        changed("args", json!(["ab"])),
        changed("args", json!(["b", "a"])),
        changed("env", json!({"A": "2"})),
        changed("env", json!({"B": "1"})),
        changed("url", json!("https://two.example/mcp")),
        changed("headers", json!({"X": "2"})),
        changed("headers", json!({"X": "1", "Y": "1"})),
    ];
    let owners = [Owner::Shared, session("one"), session("two")];
    let accounts = [None, Some("alice"), Some("bob"), Some("")];
    let mut keys = HashMap::new();
    let mut made = 0;
    for owner in &owners {
        for server in ["files", "mail"] {
            for connection in &connections {
                for account in accounts {
                    made += 1;
                    let of = (owner.clone(), server, connection.clone(), account);
                    let key = key(owner.clone(), server, connection, account);
                    let other = keys.insert(key.digest(), format!("{of:?}"));
                    assert_eq!(other, None, "{of:?}");
                }
            }
        }
    }
    assert_eq!(keys.len(), made);
    // The order of the members does not count: it is the same connection.
    let turned = json!({
        "headers": {"X": "1"}, "url": "https://one.example/mcp", "env": {"A": "1"},
        "args": ["a", "b"], "command": "server", "type": "stdio",
    });
    let one = key(Owner::Shared, "files", &connection, None);
    assert_eq!(one, key(Owner::Shared, "files", &turned, None));
    // Only its digest is kept: no secret of a connection is in what a key shows.
    assert!(!format!("{one:?}").contains("one.example"));
}

/// M3: what one account was told is never shown to another, whatever the server's scope says.
#[tokio::test]
async fn m3_a_list_is_not_shared_across_accounts() {
    for private in [true, false] {
        let world = World::new();
        let connection = json!({"type": "http", "url": "https://one.example/mcp"});
        let give = |number| {
            Server::new(Play::Give(Page {
                number,
                bytes: 10,
                tools: 1,
            }))
        };
        let (alices, bobs) = (give(1), give(2));
        alices.private.store(private, Ordering::SeqCst);
        bobs.private.store(private, Ordering::SeqCst);
        let of = |account| key(Owner::Shared, "mail", &connection, account);
        let (alice, bob) = (of(Some("alice")), of(Some("bob")));
        let first = world.cache.get(&alice, &alices).await;
        assert_eq!(first.value.map(|page| page.number), Some(1));
        assert!(world.cache.peek(&bob).is_none());
        let second = world.cache.get(&bob, &bobs).await;
        assert_eq!(
            (second.state, second.value.map(|page| page.number)),
            (State::Cold, Some(2))
        );
        assert!(world.cache.peek(&of(None)).is_none());
        assert_eq!((alices.asked(), bobs.asked()), (1, 1));
    }
}

#[test]
fn m5_the_bounds_are_those_that_are_promised() {
    const MIB: u64 = 1024 * 1024;
    let config = CacheConfig::default();
    assert_eq!(config.entries_max, 1_024);
    assert_eq!((config.tools_max, config.entry_bytes_max), (256, MIB));
    assert_eq!(
        (config.tools_hard_max, config.bytes_hard_max),
        (10_000, 16 * MIB)
    );
    assert_eq!(
        (config.ttl, config.ttl_jitter_percent),
        (Duration::from_secs(3_600), 10)
    );
    assert_eq!(config.discovery_timeout, Duration::from_secs(30));
    assert_eq!(config.discoveries_max, 16);
}
