//! Moving a runtime between a directory and a database (S7).

use std::collections::{BTreeMap, BTreeSet};

use runtime::core::{Clock as _, Random as _};
use runtime::effects::{LeaseConfig, LeaseKeeper};
use runtime::postgres::{PostgresOptions, PostgresStore};
use runtime::store::{SystemClock, SystemRandom};
use std::sync::Arc;

use crate::command_line::{Home, completed};

/// A schema of its own, gone when dropped; none where there is no server.
struct Schema(String, String);

impl Schema {
    fn new() -> Option<Self> {
        let server = postgres_for_tests::url_for_tests()?;
        let own = runtime::core::RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten());
        let own = format!("copy_{}", own.to_string().replace('-', "_"));
        Some(Self(server, own))
    }

    fn url(&self) -> String {
        format!("{}?schema={}", self.0, self.1)
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.1);
        let dropped = std::process::Command::new("psql")
            .args([self.0.as_str(), "-qc", &drop])
            .output();
        assert!(dropped.is_ok_and(|output| output.status.success()));
    }
}

/// What an export says: the lines in no order, since stores keep streams in their own; but for the
/// lineage, which is new in each, the order of a commit's attachments, and when what retention has
/// removed was committed.
fn lines(home: &Home) -> BTreeSet<String> {
    let exported = home.run(&["export", "-"]).expect(0).stdout;
    let lines = exported.lines().map(|line| {
        let mut value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        match value["type"].as_str() {
            Some("store") => value["lineage"] = "".into(),
            // Of what was removed PostgreSQL keeps the place alone; that it closed its stream
            // stands with the stream.
            Some("event") if value["erased"] == true => {
                value["time"] = 0.into();
                value["closes"] = false.into();
            }
            _ => {}
        }
        if let Some(attachments) = value["attachments"].as_array_mut() {
            attachments.sort_by_key(ToString::to_string);
        }
        // In one order, whatever the order of a map is.
        let members: BTreeMap<_, _> = value.as_object().into_iter().flatten().collect();
        serde_json::to_string(&members).expect("a line of JSON")
    });
    lines.collect()
}

/// S7: a turn that waits for a person goes on in the copy, by the token that was given out before;
/// and so does a later one after the way back.
#[test]
fn s7_a_copied_runtime_goes_on() {
    let Some(schema) = Schema::new() else {
        return;
    };
    let (home, url) = (Home::new(), schema.url());
    let from = home.path().display().to_string();
    home.run(&["run", "--worker", "desk", "please write to the ledger"])
        .expect(3);
    let waiting = home.run(&["pending", "--json"]).expect(0);
    let told = home.run(&["tail", "--json"]).expect(0).stdout;
    let cursor = home.run(&["tail", "--json", "--cursors"]).expect(0).json();
    let cursor = cursor.last().expect("events")["cursor"].clone();

    let copied = home
        .run(&["copy", "--from", &from, "--to", &url, "--json"])
        .expect(0)
        .json();
    assert_eq!(copied[0]["keys"], 1);
    assert!(copied[0]["events"].as_u64() > Some(5), "{copied:?}");
    assert!(copied[0]["rows"].as_u64() > Some(3), "{copied:?}");
    let again = home
        .run(&["copy", "--from", &from, "--to", &url, "--json"])
        .expect(1);
    assert_eq!(again.json()[0]["error"]["code"], "postgres_target_exists");

    // It tells the same, under a new lineage.
    let over = |words: &[&str]| home.run(&[words, &["--store", &url]].concat());
    assert_eq!(over(&["tail", "--json"]).expect(0).stdout, told);
    assert_eq!(
        over(&["pending", "--json"]).expect(0).stdout,
        waiting.stdout
    );
    let cursor = cursor.as_str().expect("a cursor");
    let refused = over(&["tail", "--json", "--from", cursor]).expect(1).json();
    assert_eq!(refused[0]["error"]["code"], "cursor_other_lineage");

    let token = waiting.json()[0]["token"].clone();
    over(&["approve", token.as_str().expect("a token")]).expect(0);
    over(&["resume"]).expect(0);
    let told = over(&["tail", "--json"]).expect(0);
    assert_eq!(completed(&told.json()), 1);
    let ledger = std::fs::read_to_string(home.path().join("demo-ledger.txt"));
    assert_eq!(ledger.expect("the ledger").lines().count(), 1);

    // And back.
    let back = Home::new();
    let to = back.path().display().to_string();
    back.run(&["copy", "--from", &url, "--to", &to]).expect(0);
    assert_eq!(back.run(&["tail", "--json"]).expect(0).stdout, told.stdout);
    back.run(&["verify"]).expect(0);
    let exists = back
        .run(&["copy", "--from", &url, "--to", &to, "--json"])
        .expect(1)
        .json();
    assert_eq!(exists[0]["error"]["code"], "store_target_exists");
    back.run(&["run", "--worker", "desk", "hello again"])
        .expect(0);
}

/// S7: nothing is lost on the way there and back.
#[test]
fn s7_a_copy_of_a_copy_exports_the_same_lines() {
    let (Some(one), Some(two)) = (Schema::new(), Schema::new()) else {
        return;
    };
    let (home, back) = (Home::new(), Home::new());
    home.run(&["demo", "--yes"]).expect(0);
    home.run(&["run", "--worker", "gone", "hello"]).expect(0);
    home.run(&["worker", "delete", "gone"]).expect(0);
    home.run(&["purge", "gone", "--yes"]).expect(0);
    home.run(&["retention", "--events", "6"]).expect(0);
    home.run(&["run", "--worker", "desk", "please write to the ledger"])
        .expect(3);
    let from = home.path().display().to_string();
    let to = back.path().display().to_string();
    for (from, to) in [
        (from.as_str(), one.url()),
        (&one.url(), two.url()),
        (&two.url(), to),
    ] {
        home.run(&["copy", "--from", from, "--to", &to]).expect(0);
    }
    let (before, after) = (lines(&home), lines(&back));
    let lost: Vec<_> = before.difference(&after).collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(lost.is_empty() && new.is_empty(), "{lost:#?} {new:#?}");
    assert!(before.len() > 20);
}

/// S7: what somebody has open is not copied: it would go on in two places.
#[test]
fn s7_an_open_runtime_is_not_copied() {
    let Some(schema) = Schema::new() else {
        return;
    };
    let (home, url) = (Home::new(), schema.url());
    home.run(&["run", "--worker", "desk", "hello", "--store", &url])
        .expect(0);
    let tasks = tokio::runtime::Runtime::new().expect("threads");
    let target = Home::new();
    let to = target.path().display().to_string();
    let keeper = tasks.block_on(async {
        let options = PostgresOptions::new(&url).expect("a URL");
        let store = PostgresStore::open(options).await.expect("a store");
        let clock = store.clock();
        let terms = LeaseConfig::default();
        let keeper = LeaseKeeper::new(Arc::new(store), clock, Arc::new(SystemRandom), terms);
        Arc::new(keeper.expect("terms that can be kept"))
    });
    // From here on it is held.
    tasks.block_on(keeper.beat()).expect("a beat");
    let beating = Arc::clone(&keeper);
    let beats = tasks.spawn(async move {
        loop {
            tokio::time::sleep(LeaseConfig::default().renew_every).await;
            beating.beat().await.expect("a beat");
        }
    });
    let refused = target
        .run(&["copy", "--from", &url, "--to", &to, "--json"])
        .expect(1)
        .json();
    assert_eq!(refused[0]["error"]["code"], "copy_source_open");
    // It dies: its lease is seen to run out.
    beats.abort();
    target.run(&["copy", "--from", &url, "--to", &to]).expect(0);
    target.run(&["verify"]).expect(0);
}
