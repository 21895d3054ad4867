//! `doctor`: what is wrong with a place is told before it goes wrong (U3).

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::command_line::Home;

fn checks(home: &Home, arguments: &[&str], code: i32) -> Vec<Value> {
    let mut words = vec!["--json", "doctor"];
    words.extend(arguments);
    home.run(&words).expect(code).json()
}

fn check(checks: &[Value], name: &str) -> Value {
    let found = checks.iter().find(|check| check["check"] == name);
    found
        .unwrap_or_else(|| panic!("no check {name} in {checks:?}"))
        .clone()
}

#[test]
fn u3_doctor_reports_file_system_tier_lock_and_versions() {
    let home = Home::new();
    let before = checks(&home, &[], 0);
    assert_eq!(check(&before, "store")["details"]["exists"], false);
    assert!(!home.path().exists(), "looking makes nothing");
    home.run(&["demo", "--yes"]).expect(0);
    let after = checks(&home, &[], 0);
    let store = check(&after, "store");
    assert_eq!(store["details"]["tier"], "power");
    assert!(
        store["details"]["report"]["events"].as_u64() > Some(10),
        "{store}"
    );
    assert_eq!(check(&after, "lock")["details"]["holder"], Value::Null);
    assert_eq!(check(&after, "program")["details"]["store_format"], 1);
    assert!(check(&after, "platform")["details"]["system"].is_string());
    assert!(check(&after, "room")["details"]["free_bytes"].as_u64() > Some(0));
    // In a chroot the root itself is none of the mounts that are seen.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let sees_root = mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some("/"));
    let kind = &check(&after, "file system")["details"]["kind"];
    assert_eq!(kind.is_string(), sees_root, "{kind}");
    for check in &after {
        assert_ne!(check["verdict"], "wrong", "{check}");
    }
}

#[test]
fn u3_doctor_names_who_holds_the_lock() {
    let home = Home::new();
    let mut child = home.spawn(&["demo", "--wait"]);
    let pid = child.id();
    let held = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let lock = check(&checks(&home, &[], 0), "lock");
        lock["details"]["holder"]["pid"].as_u64()
    });
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
    assert_eq!(held, Some(u64::from(pid)));
    // A killed holder's lock is free.
    let lock = check(&checks(&home, &[], 0), "lock");
    assert_eq!(lock["details"]["holder"], Value::Null);
}

#[test]
fn u3_doctor_tells_what_is_wrong() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    // Open to others.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    assert_eq!(
        check(&checks(&home, &[], 0), "directory")["verdict"],
        "note"
    );
    // A wrong configuration does not stop it.
    let wrong = checks(&home, &["--set", "limits.queue_max=0"], 1);
    let wrong = check(&wrong, "configuration");
    assert_eq!(wrong["verdict"], "wrong");
    assert_eq!(wrong["details"]["code"], "config_invalid");
    // Without its keys no process opens the store for writing.
    let keys = home.path().join("store").join("keys");
    let whole = fs::read(&keys).expect("ours");
    fs::remove_file(&keys).expect("ours");
    let without_keys = check(&checks(&home, &[], 1), "store");
    assert_eq!(without_keys["verdict"], "wrong");
    home.run(&["resume"]).expect(1);
    fs::write(&keys, whole).expect("ours");
    checks(&home, &[], 0);
    // A damaged store: its format file is no format.
    fs::write(home.path().join("store").join("format"), "nonsense").expect("ours");
    let damaged = checks(&home, &[], 1);
    assert_eq!(check(&damaged, "store")["verdict"], "wrong");
    // For people, a line each.
    let said = home.run(&["doctor"]).expect(1).stdout;
    assert!(said.contains("wrong  store"), "{said}");
}
