//! The server that the tests of this crate talk to: correct in both eras, hostile on demand.
//!
//! `fixture_server MODE [FILE]`: MODE says how it greets and lists (`modern:MODE`: in the newer era), the tool that is called says
//! what happens then; FILE gets a line for each call that ran.

use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::process::{Command, exit};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

const TOOLS: [&str; 16] = [
    "process",
    "echo",
    "lookup",
    "set",
    "die",
    "hang",
    "huge",
    "deep",
    "garbled",
    "wrong_id",
    "environment",
    "variables",
    "refuse",
    "noise",
    "flood",
    "change",
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().context("which mode?")?;
    let (modern, mode) = match mode.strip_prefix("modern:") {
        Some(mode) => (true, mode.to_owned()),
        None => (mode == "modern", mode),
    };
    let mut server = Server {
        mode,
        modern,
        file: arguments.next(),
        listening: None,
        changed: false,
    };
    if server.mode == "exits" {
        exit(7);
    }
    for line in io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        server.take(&message)?;
    }
    if server.mode == "stubborn" {
        // Its input is closed; a well-behaved server would end now.
        std::thread::sleep(Duration::from_secs(600));
    }
    Ok(())
}

struct Server {
    mode: String,
    /// It speaks the newer era.
    modern: bool,
    file: Option<String>,
    /// The id of the subscription to changes, in the newer era.
    listening: Option<Value>,
    changed: bool,
}

impl Server {
    fn take(&mut self, message: &Value) -> anyhow::Result<()> {
        let id = &message["id"];
        let params = &message["params"];
        if self.mode == "mute" {
            return Ok(());
        }
        match message["method"].as_str() {
            Some("server/discover") if self.modern => answer(
                id,
                json!({
                    "supportedVersions": ["2026-07-28"],
                    "capabilities": {"tools": {"listChanged": true}},
                    "ttlMs": 0,
                    "cacheScope": "private",
                    "resultType": "complete",
                }),
            ),
            Some("initialize") => answer(
                id,
                json!({
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": "fixture", "version": "1"},
                }),
            ),
            Some("subscriptions/listen") if self.modern => {
                self.listening = Some(id.clone());
                self.tell(
                    "notifications/subscriptions/acknowledged",
                    json!({
                        "notifications": {"toolsListChanged": true},
                    }),
                )
            }
            Some("tools/list") => {
                self.note("list")?;
                self.list(id, params["cursor"].as_str())
            }
            Some("tools/call") => self.call(id, params),
            Some("notifications/cancelled") => self.note("cancelled"),
            Some(_) if !id.is_null() => refuse(id, -32601, "no such method"),
            _ => Ok(()),
        }
    }

    fn list(&self, id: &Value, cursor: Option<&str>) -> anyhow::Result<()> {
        match (self.mode.as_str(), cursor) {
            ("cycle", Some("x")) => answer(id, json!({"tools": [], "nextCursor": "y"})),
            ("cycle", _) => answer(id, json!({"tools": [], "nextCursor": "x"})),
            ("endless", cursor) => {
                let next = cursor.map_or(0, |cursor| cursor.parse::<u64>().unwrap_or(0)) + 1;
                answer(id, json!({"tools": [], "nextCursor": next.to_string()}))
            }
            ("million", cursor) => {
                // A thousand pages of a thousand tools each.
                let page = cursor.map_or(0, |cursor| cursor.parse::<u64>().unwrap_or(0));
                let tools = (page * 1_000)..((page + 1) * 1_000);
                let tools: Vec<Value> = tools.map(|n| tool(&n.to_string())).collect();
                let mut result = json!({ "tools": tools });
                if page < 999 {
                    result["nextCursor"] = json!((page + 1).to_string());
                }
                answer(id, result)
            }
            ("silent", _) => Ok(()),
            ("deep_list", _) => {
                let deep = "[".repeat(100_000) + &"]".repeat(100_000);
                line(
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":{deep}}}}}"#)
                        .as_bytes(),
                )
            }
            ("garbled_list", _) => {
                let mut garbled =
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[""#).into_bytes();
                garbled.extend([0xff, 0xfe]);
                garbled.extend(br#""]}}"#);
                line(&garbled)
            }
            ("huge_list", _) => {
                let mut out = io::stdout().lock();
                write!(out, r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[""#)?;
                let block = vec![b'x'; 1 << 16];
                for _ in 0..(1 << 14) {
                    out.write_all(&block)?;
                }
                Ok(())
            }
            ("wrong_list", _) => answer(&json!(999_999), json!({"tools": [tool("a")]})),
            ("no_list", _) => answer(id, json!({"tools": {}})),
            ("dies", _) => exit(4),
            ("many", _) => {
                let tools: Vec<Value> = (0..20_000).map(|n| tool(&n.to_string())).collect();
                answer(id, json!({ "tools": tools }))
            }
            ("twins", _) => answer(id, json!({"tools": [tool("a"), tool("b"), tool("a")]})),
            ("sly", _) => {
                let mut sly = tool("read");
                sly["description"] = json!("Reads.\u{200b}\u{e0041}");
                answer(id, json!({ "tools": [sly] }))
            }
            ("unlistable", _) => refuse(id, -32603, "the list is\u{1b}[31m on fire"),
            ("modern", _) => {
                let mut tools: Vec<Value> = TOOLS.map(tool).into();
                if self.changed {
                    tools.push(tool("late"));
                }
                answer(
                    id,
                    json!({
                        "tools": tools, "ttlMs": 3_600_000, "cacheScope": "public",
                        "resultType": "complete",
                    }),
                )
            }
            // An empty cursor is one like any other.
            (_, None) => answer(id, json!({"tools": [tool(TOOLS[0])], "nextCursor": ""})),
            (_, Some(_)) => {
                let mut tools: Vec<Value> = TOOLS[1..].iter().map(|name| tool(name)).collect();
                if self.changed {
                    tools.push(tool("late"));
                }
                answer(id, json!({ "tools": tools }))
            }
        }
    }

    fn call(&mut self, id: &Value, params: &Value) -> anyhow::Result<()> {
        let name = params["name"].as_str().unwrap_or_default();
        self.note(name)?;
        match name {
            "echo" => answer(id, text(&params["arguments"].to_string())),
            "lookup" => answer(
                id,
                text(
                    params["_meta"]["agent-runtime/idempotencyKey"]
                        .as_str()
                        .unwrap_or("no key"),
                ),
            ),
            "set" => answer(
                id,
                json!({"content": [], "structuredContent": {"set": true}}),
            ),
            "process" => answer(id, text(&std::process::id().to_string())),
            "die" => exit(3),
            "hang" => Ok(()),
            "huge" => {
                let mut out = io::stdout().lock();
                write!(
                    out,
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#
                )?;
                let block = vec![b'x'; 1 << 16];
                // Far more than anybody wants; ends when nobody reads any more.
                for _ in 0..(1 << 14) {
                    out.write_all(&block)?;
                }
                Ok(())
            }
            "deep" => {
                let deep = "[".repeat(100_000) + &"]".repeat(100_000);
                line(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{deep}}}"#).as_bytes())
            }
            "garbled" => {
                let mut garbled = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#
                )
                .into_bytes();
                garbled.extend([0xff, 0xfe]);
                garbled.extend(br#""}]}}"#);
                line(&garbled)
            }
            "wrong_id" => {
                for wrong in [json!(999_999), json!("never"), json!(-1), Value::Null] {
                    answer(&wrong, text("for somebody else"))?;
                }
                answer(id, text("for you"))
            }
            "environment" => {
                let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
                names.sort();
                answer(id, text(&names.join(" ")))
            }
            "variables" => {
                let all: Vec<String> = std::env::vars().map(|(n, v)| format!("{n}={v}")).collect();
                answer(id, text(&all.join(" ")))
            }
            "refuse" => refuse(id, -32602, "no such argument"),
            "noise" => {
                line(b"starting up ...")?;
                line(br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"hi"}}"#)?;
                line(b"[1, 2")?;
                answer(id, text("through the noise"))
            }
            "flood" => {
                for n in 0..100_000 {
                    line(format!(r#"{{"jsonrpc":"2.0","id":"f{n}","method":"ping"}}"#).as_bytes())?;
                }
                answer(id, text("flooded"))
            }
            "change" => {
                self.changed = true;
                // A grandchild, which must not outlive the server.
                let child = Command::new("sleep").arg("600").spawn()?;
                for _ in 0..1_000 {
                    self.tell("notifications/tools/list_changed", json!({}))?;
                }
                answer(id, text(&child.id().to_string()))
            }
            _ => refuse(id, -32602, "Unknown tool"),
        }
    }

    fn tell(&self, method: &str, mut params: Value) -> anyhow::Result<()> {
        if let Some(id) = &self.listening {
            params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": id});
        }
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        line(message.to_string().as_bytes())
    }

    fn note(&self, what: &str) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            let mut file = OpenOptions::new().append(true).create(true).open(file)?;
            file.write_all(format!("{what}\n").as_bytes())?;
        }
        Ok(())
    }
}

fn tool(name: &str) -> Value {
    json!({
        "name": name,
        "description": format!("Does {name}."),
        "inputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": name == "lookup", "idempotentHint": name == "set"},
        "execution": {"taskSupport": "forbidden"},
    })
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": false})
}

fn answer(id: &Value, result: Value) -> anyhow::Result<()> {
    line(
        json!({"jsonrpc": "2.0", "id": id, "result": result})
            .to_string()
            .as_bytes(),
    )
}

fn refuse(id: &Value, code: i32, message: &str) -> anyhow::Result<()> {
    let error = json!({"code": code, "message": message});
    line(
        json!({"jsonrpc": "2.0", "id": id, "error": error})
            .to_string()
            .as_bytes(),
    )
}

fn line(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
