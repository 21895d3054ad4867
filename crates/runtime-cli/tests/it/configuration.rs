//! The configuration file, its layers, and what is said when it is wrong.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::command_line::{Ended, Home};

/// A folder with a configuration, in which commands run.
struct Folder {
    home: Home,
}

impl Folder {
    fn new(configuration: &str) -> Self {
        let folder = Self { home: Home::new() };
        fs::create_dir_all(folder.home.path()).expect("the folder can be made");
        fs::write(folder.home.path().join("agent-runtime.toml"), configuration).expect("written");
        folder
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-runtime"));
        command.current_dir(self.home.path()).args(arguments);
        for (name, _) in std::env::vars() {
            if name.starts_with("AGENT_RUNTIME_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let mut command = self.command(arguments);
        let output = command
            .envs(environment.iter().copied())
            .output()
            .expect("the program starts");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("output is UTF-8"),
        }
    }

    /// The value of a key and who set it.
    fn shown(
        &self,
        key: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> (Value, String) {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--json", "config", "show"]);
        let shown = self.run_with(&arguments, environment).expect(0).json();
        let values = shown[0]["values"].as_array().expect("a list").clone();
        let row = values.into_iter().find(|row| row["key"] == key);
        let row = row.unwrap_or_else(|| panic!("{key} is not shown"));
        let origin = row["origin"].as_str().expect("a text").to_owned();
        (row["value"].clone(), origin)
    }
}

/// U4: a variable sets a key of every table that the page of the configuration says.
#[test]
fn u4_a_variable_sets_a_key_of_each_table() {
    let folder = Folder::new("");
    for (key, variable, value) in [
        (
            "agent.instructions",
            "AGENT_RUNTIME_AGENT_INSTRUCTIONS",
            "be brief",
        ),
        (
            "approval.default",
            "AGENT_RUNTIME_APPROVAL_DEFAULT",
            "always",
        ),
        ("limits.queue_max", "AGENT_RUNTIME_LIMITS_QUEUE_MAX", "7"),
        (
            "model.temperature",
            "AGENT_RUNTIME_MODEL_TEMPERATURE",
            "0.5",
        ),
        (
            "retention.events_max",
            "AGENT_RUNTIME_RETENTION_EVENTS_MAX",
            "7",
        ),
        ("store.directory", "AGENT_RUNTIME_STORE_DIRECTORY", "there"),
    ] {
        let (_, origin) = folder.shown(key, &[], &[(variable, value)]);
        assert_eq!(origin, format!("environment {variable}"));
    }
}

/// U4: a path that is no text is that path and no other, and can be shown; a variable that is no
/// text is not passed by in silence.
#[test]
fn u4_a_path_that_is_no_text_is_kept_and_shown() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new("");
    let name = std::ffi::OsStr::from_bytes(b"no\xfftext");
    let place = folder.home.path().join(name);
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        command.arg("--dir").arg(&place);
        let ended = command.output().expect("the program starts");
        ended.status.code()
    };
    assert_eq!(run(&["demo", "--yes"]), Some(0));
    assert!(place.join("store").is_dir());
    for arguments in [&["doctor"][..], &["config", "show"], &["--json", "verify"]] {
        assert_eq!(run(arguments), Some(0), "{arguments:?}");
    }
    let file = place.join("other.toml");
    fs::write(&file, "").expect("is written");
    for arguments in [
        &["--json", "config", "check"][..],
        &["--json", "config", "show"],
        &["--json", "doctor"],
    ] {
        let mut command = folder.command(arguments);
        let ended = command.arg("--config").arg(&file).output();
        assert_eq!(ended.expect("the program starts").status.code(), Some(0));
    }
    let mut command = folder.command(&["--json", "workers"]);
    let ended = command.env("AGENT_RUNTIME_DIR", &place).output();
    let ended = ended.expect("the program starts");
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8(ended.stdout).expect("is text");
    assert!(told.contains("AGENT_RUNTIME_DIR"), "{told}");
}

#[test]
fn the_layers_are_file_then_environment_then_flags() {
    let folder = Folder::new("[limits]\niterations_max = 5\n\n[model]\nname = \"scripted\"\n");
    let key = "limits.iterations_max";
    let variable = ("AGENT_RUNTIME_LIMITS_ITERATIONS_MAX", "6");
    let (value, origin) = folder.shown(key, &[], &[]);
    assert_eq!((value, origin.as_str()), (5.into(), "agent-runtime.toml:2"));
    let (value, origin) = folder.shown(key, &[], &[variable]);
    assert_eq!(value, 6);
    assert_eq!(origin, "environment AGENT_RUNTIME_LIMITS_ITERATIONS_MAX");
    let (value, origin) = folder.shown(key, &["--set", "limits.iterations_max=7"], &[variable]);
    assert_eq!((value, origin.as_str()), (7.into(), "command line --set"));
    let (value, origin) = folder.shown("store.directory", &["--dir", "elsewhere"], &[]);
    assert_eq!(
        (value, origin.as_str()),
        ("elsewhere".into(), "command line --dir")
    );
}

/// Every mistake names file, line and key.
#[test]
fn a_mistake_names_file_line_and_key() {
    for (text, line, key, words) in [
        (
            "[model]\n\ntemprature = 0.5\n",
            3,
            "model.temprature",
            "did you mean model.temperature?",
        ),
        (
            "[model]\ntemperature = \"hot\"\n",
            2,
            "model.temperature",
            "expected f64",
        ),
        (
            "[limits]\niterations_max = -1\n",
            2,
            "limits.iterations_max",
            "u32",
        ),
        (
            "[limits]\nqueue_max = 0\n",
            2,
            "limits.queue_max",
            "at least 1",
        ),
        (
            "[approval]\ndefault = \"sometimes\"\n",
            2,
            "approval.default",
            "unknown variant",
        ),
        (
            "[modle]\nname = \"scripted\"\n",
            2,
            "modle.name",
            "no such key",
        ),
        ("model = 3\n", 1, "model", "table"),
        ("[model]\nname = \n", 2, "name", ""),
        (
            "[model]\nname = \"a\"\nname = \"b\"\n",
            3,
            "name",
            "duplicate",
        ),
        (
            "[mcp_servers.files]\ncommand = \"x\"\ntrustd = true\n",
            3,
            "mcp_servers.files.trustd",
            "did you mean mcp_servers.files.trusted?",
        ),
        (
            "[mcp_servers.files]\ncommand = \"x\"\nargs = \"y\"\n",
            3,
            "mcp_servers.files.args",
            "expected a sequence",
        ),
        (
            "[mcp_servers.files]\ntrusted = true\n",
            2,
            "mcp_servers.files.command",
            "command",
        ),
        (
            "[mcp_servers.files]\ndiscovery = 1\n",
            2,
            "mcp_servers.files.discovery",
            "true or false",
        ),
        (
            "[workers.desk]\nprofile = \"x\"\n",
            2,
            "workers.desk.profile",
            "no profile",
        ),
    ] {
        let folder = Folder::new(text);
        let ended = folder.run(&["config", "check"]).expect(1);
        let place = format!("agent-runtime.toml:{line}: {key}");
        assert!(ended.stderr.contains(&place), "{text}\n{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{text}\n{}", ended.stderr);
        let ended = folder.run(&["--json", "config", "check"]).expect(1);
        let problem = ended.json()[0]["error"]["details"]["problems"][0].clone();
        assert_eq!(problem["line"], line, "{text}");
        assert_eq!(problem["key"], key, "{text}");
        // The same mistake stops the commands that work, before anything is made.
        folder.run(&["run", "--worker", "w", "hi"]).expect(1);
        assert!(
            !folder.home.path().join(".agent-runtime").exists(),
            "{text}"
        );
    }
}

#[test]
fn a_mistake_in_the_environment_or_a_flag_names_it() {
    let folder = Folder::new("");
    let variable = ("AGENT_RUNTIME_MODEL_BASE_ULR", "http://localhost/v1");
    let ended = folder.run_with(&["workers"], &[variable]).expect(1);
    assert!(
        ended
            .stderr
            .contains("environment AGENT_RUNTIME_MODEL_BASE_ULR"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("model.base_url"), "{}", ended.stderr);
    let ended = folder
        .run(&["--set", "limits.queue_max=many", "workers"])
        .expect(1);
    assert!(
        ended
            .stderr
            .contains("command line --set: limits.queue_max"),
        "{}",
        ended.stderr
    );
    let ended = folder
        .run(&["--config", "nowhere.toml", "workers"])
        .expect(1);
    assert!(ended.stderr.contains("nowhere.toml"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("[config_unreadable]"),
        "{}",
        ended.stderr
    );
}

/// X2, for the configuration: nothing that is shown or said has a secret in it.
#[test]
fn x2_no_secret_of_the_configuration_is_shown() {
    let text = r#"
[model]
name = "scripted"
api_key = "canary-1"
base_url = "https://user:canary-2@example.org/v1?key=canary-3"
headers = { x-tenant = "canary-4" }

[mcp_servers.files]
command = "server"
args = ["--token", "canary-5", "--api-key=canary-6", "https://u:canary-7@example.org/x", "plain"]
env = { TOKEN = "canary-8" }
"#;
    let folder = Folder::new(text);
    let variable = ("AGENT_RUNTIME_MODEL_API_KEY", "canary-9");
    for arguments in [
        &["config", "show"][..],
        &["--json", "config", "show"],
        &["config", "check"],
        &["--json", "config", "check"],
        &["--set", "model.headers.x=canary-10", "config", "show"],
    ] {
        let ended = folder.run_with(arguments, &[variable]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains("canary"), "{said}");
    }
    let shown = folder.run(&["config", "show"]).expect(0).stdout;
    assert!(shown.contains("plain"), "{shown}");
    assert!(shown.contains("others may read") || !shown.contains("warning"));
    // A secret of the wrong type is not repeated either.
    for wrong in [
        "[model]\napi_key = 123456789\n",
        "[model]\napi_key = canary\n",
    ] {
        let ended = Folder::new(wrong).run(&["config", "check"]).expect(1);
        assert!(
            ended.stderr.contains("agent-runtime.toml:2"),
            "{}",
            ended.stderr
        );
        let said = ended.stderr;
        assert!(
            !said.contains("123456789") && !said.contains("canary"),
            "{said}"
        );
    }
}

/// R13, for the configuration: whatever the file holds, the answer is an error or a configuration.
#[test]
fn r13_no_configuration_is_a_panic() {
    let whole = "[model]\nname = \"scripted\"\ntemperature = 1e5\nheaders = { a = \"b\" }\n\
                 [mcp_servers.\"a b\"]\ncommand = \"x\"\nargs = [\"1\", [2]]\nenv.X = 1979-05-27\n";
    let folder = Folder::new(whole);
    let file = folder.home.path().join("agent-runtime.toml");
    for cut in (0..whole.len()).step_by(7) {
        for junk in ["", "\u{fffd}", "[[", "= ="] {
            fs::write(&file, format!("{}{junk}", &whole[..cut])).expect("written");
            let code = folder.run(&["config", "check"]).code;
            assert!(matches!(code, Some(0 | 1)), "{cut} {junk:?}: {code:?}");
        }
    }
}

#[test]
fn limits_and_the_store_of_the_file_count() {
    let folder = Folder::new(
        "[store]\ndirectory = \"data\"\n[limits]\ninput_bytes_max = 4\n[approval]\ndefault = \"never\"\n",
    );
    let refused = folder
        .run(&["run", "--worker", "w", "far too long"])
        .expect(1);
    assert!(refused.stderr.contains("4"), "{}", refused.stderr);
    assert!(folder.home.path().join("data").join("store").exists());
    assert!(!folder.home.path().join(".agent-runtime").exists());
}

/// The approval policy of the file replaces a tool's own: the ledger of the scripted agent asks
/// each time, unless the file says never.
#[test]
fn t3_the_approval_policy_of_the_file_counts() {
    let asks = Folder::new("");
    asks.run(&["run", "--worker", "w", "the ledger"]).expect(3);
    let never = Folder::new("[approval.tools]\nappend_ledger = \"never\"\n");
    never.run(&["run", "--worker", "w", "the ledger"]).expect(0);
    let ledger = never.home.path().join(".agent-runtime/demo-ledger.txt");
    assert_eq!(
        fs::read_to_string(ledger).expect("written").lines().count(),
        1
    );
}

/// An entry of a server over HTTP (M11), with everything that may hold a credential.
const HTTP_ENTRY: &str = r#"
[mcp_servers.search]
type = "http"
url = "https://user:canary-1@search.example.org/mcp?key=canary-2"
headers = { X-Api-Key = "canary-3", X-Tenant = "canary-4" }
auth = { type = "bearer_env", variable = "canary-5" }
trusted = true
required = true
lifecycle = "handshake"
allow_private_addresses = false
call_timeout_ms = 5000
"#;

/// X2, M11: an entry over HTTP is shown member by member, and nothing of it that may be a secret.
#[test]
fn x2_an_entry_over_http_is_shown_without_its_secrets() {
    let folder = Folder::new(HTTP_ENTRY);
    let (url, origin) = folder.shown("mcp_servers.search.url", &[], &[]);
    assert_eq!(url, "https://[redacted]@search.example.org/mcp?[redacted]");
    assert_eq!(origin, "agent-runtime.toml:4");
    for (key, line) in [
        ("headers.X-Api-Key", 5),
        ("headers.X-Tenant", 5),
        ("auth.type", 6),
        ("auth.variable", 6),
    ] {
        let (value, origin) = folder.shown(&format!("mcp_servers.search.{key}"), &[], &[]);
        assert_eq!(value, "[redacted]", "{key}");
        assert_eq!(origin, format!("agent-runtime.toml:{line}"), "{key}");
    }
    let (timeout, _) = folder.shown("mcp_servers.search.call_timeout_ms", &[], &[]);
    assert_eq!(timeout, 5000);
    for arguments in [
        &["config", "show"][..],
        &["--json", "config", "show"],
        &["config", "check"],
        &["--json", "config", "check"],
        &["doctor"],
    ] {
        let ended = folder.run(arguments);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains("canary"), "{arguments:?}: {said}");
    }
}

/// A wrong entry over HTTP names file, line and key, in whatever layer it stands, and repeats no
/// secret.
#[cfg(feature = "mcp-http")]
#[test]
fn m11_a_wrong_entry_over_http_names_file_line_and_key() {
    Folder::new(&HTTP_ENTRY.replace("user:canary-1@", ""))
        .run(&["config", "check"])
        .expect(0);
    for (entry, line, key, words) in [
        ("url = \"\"\n", 3, "url", "give it a url"),
        ("trusted = true\n", 2, "url", "give it a url"),
        ("url = \"no url\"\n", 3, "url", "url"),
        ("url = \"ftp://example.org/x\"\n", 3, "url", "http"),
        ("url = \"http://127.0.0.1:9/mcp\"\n", 3, "url", "private"),
        (
            "url = \"http://169.254.169.254/mcp\"\n",
            3,
            "url",
            "private",
        ),
        (
            "url = \"https://a.org\"\ncommand = \"x\"\n",
            4,
            "command",
            "stdio",
        ),
        (
            "url = \"https://a.org\"\nenv = { A = \"canary\" }\n",
            4,
            "env",
            "stdio",
        ),
        (
            "url = \"https://a.org\"\nheaders = { Host = \"canary\" }\n",
            4,
            "headers.Host",
            "set by the client",
        ),
        (
            "url = \"https://a.org\"\nheaders = { X-A = \"canary\\nX-B: 1\" }\n",
            4,
            "headers.X-A",
            "plain ASCII",
        ),
        (
            "url = \"https://a.org\"\nheaders = { X-A = 5 }\n",
            4,
            "headers.X-A",
            "text",
        ),
        (
            "url = \"https://a.org\"\nheaders = { Authorization = \"canary\" }\nauth = { type = \"bearer_env\", variable = \"T\" }\n",
            5,
            "auth",
            "twice",
        ),
        (
            "url = \"https://a.org\"\nauth = { type = \"bearer\", token = \"canary\" }\n",
            4,
            "auth",
            "text",
        ),
        (
            "url = \"https://a.org\"\ncall_timeout_ms = 0\n",
            4,
            "call_timeout_ms",
            "at least 1",
        ),
        (
            "url = \"https://a.org\"\nlifecycle = \"new\"\n",
            4,
            "lifecycle",
            "unknown variant",
        ),
        (
            "url = \"https://a.org\"\nhaeders = {}\n",
            4,
            "haeders",
            "no such key",
        ),
        (
            "url = \"https://a.org\"\ntrusted = \"canary\"\n",
            4,
            "trusted",
            "boolean",
        ),
    ] {
        for table in [
            "mcp_servers.search",
            "profiles.night.mcp_servers.search",
            "workers.desk.mcp_servers.search",
        ] {
            let folder = Folder::new(&format!("[{table}]\ntype = \"http\"\n{entry}"));
            let ended = folder.run(&["config", "check"]).expect(1);
            let place = format!("agent-runtime.toml:{line}: {table}.{key}");
            assert!(
                ended.stderr.contains(&place),
                "{table} {entry}\n{}",
                ended.stderr
            );
            assert!(
                ended.stderr.contains(words),
                "{table} {entry}\n{}",
                ended.stderr
            );
            let secret = ended.stderr.contains("canary") && !entry.contains("trusted");
            assert!(!secret, "{}", ended.stderr);
        }
    }
}

/// A build without HTTP says so, and what to do.
#[cfg(not(feature = "mcp-http"))]
#[test]
fn m11_an_entry_over_http_needs_a_build_with_it() {
    let folder = Folder::new("[mcp_servers.search]\nurl = \"https://a.org\"\ntype = \"http\"\n");
    let ended = folder.run(&["config", "check"]).expect(1);
    let said = &ended.stderr;
    assert!(
        said.contains("agent-runtime.toml:3: mcp_servers.search.type"),
        "{said}"
    );
    assert!(said.contains("feature"), "{said}");
}
