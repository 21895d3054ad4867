//! What may be started as a server (M10, X6): pure.

use std::path::Path;

/// Programs that read a command line of their own.
const SHELLS: &[&str] = &[
    "ash",
    "bash",
    "cmd",
    "cmd.exe",
    "csh",
    "dash",
    "elvish",
    "fish",
    "ksh",
    "mksh",
    "nu",
    "osh",
    "powershell",
    "powershell.exe",
    "pwsh",
    "pwsh.exe",
    "rbash",
    "sh",
    "tcsh",
    "xonsh",
    "yash",
    "zsh",
];

/// Programs that only start another one, which their arguments name.
const STARTERS: &[&str] = &[
    "busybox", "chroot", "command", "doas", "env", "exec", "ionice", "nice", "nohup", "setsid",
    "stdbuf", "sudo", "taskset", "time", "timeout", "toybox", "unshare", "xargs",
];

/// Says why a command line may not be started; nothing if it may.
pub(crate) fn refusal(command: &str, args: &[String]) -> Option<&'static str> {
    if command.trim().is_empty() {
        return Some("give it a command");
    }
    let texts = args.iter().map(String::as_str).chain([command]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Some("the command and its arguments cannot have a NUL");
    }
    if command.chars().any(char::is_control) {
        return Some("the command cannot have control characters");
    }
    // A whole path may have what no name of a program has; nobody reads it but the system.
    let whole = command.starts_with('/');
    let odd = |c: char| "|$`<>*?\"".contains(c) || (!whole && ";&()'".contains(c));
    if command.contains(odd) {
        return Some("no shell reads the command; give the program alone, its arguments in args");
    }
    let bare = !command.contains('/') && !command.contains('\\');
    if bare && command.contains(char::is_whitespace) {
        return Some("give the program alone, its arguments in args");
    }
    if is_one_of(command, SHELLS) {
        return Some("no shell is started; give the program that it would start");
    }
    if is_one_of(command, STARTERS) && args.iter().any(|argument| is_one_of(argument, SHELLS)) {
        return Some("no shell is started, not by another program either");
    }
    None
}

fn is_one_of(program: &str, names: &[&str]) -> bool {
    let name = program.rsplit(['/', '\\']).next().unwrap_or(program);
    let name = Path::new(name.trim()).as_os_str().to_string_lossy();
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Says why a variable may not be set or handed on; nothing if it may.
pub(crate) fn variable_refusal(name: &str, value: &str) -> Option<&'static str> {
    if name.is_empty() || name.contains('=') {
        return Some("the name of a variable cannot be empty or have a =");
    }
    if name.contains('\0') || value.contains('\0') {
        return Some("a variable cannot have a NUL");
    }
    None
}

/// The headers that an entry may not set: those that say where a request goes, how long it is,
/// and what the protocol itself says in them.
const HEADERS_RESERVED: &[&str] = &[
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Says why an entry may not set a header; nothing if it may.
pub(crate) fn header_refusal(name: &str, value: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Some("a header has a name that is none");
    }
    if !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
        return Some("the value of a header must be plain ASCII without line ends");
    }
    let reserved = HEADERS_RESERVED.contains(&lower.as_str())
        || lower.starts_with("mcp-")
        || lower.starts_with("x-forwarded-")
        || lower.starts_with("sec-")
        || lower.starts_with(':');
    reserved.then_some("a header is set by the client itself and cannot be set here")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMANDS: &[(&str, &[&str])] = &[
        ("", &[]),
        (" ", &[]),
        ("\t\n", &[]),
        ("a\0b", &[]),
        ("server", &["a\0"]),
        ("server\n", &[]),
        ("ser\u{1b}ver", &[]),
        ("npx server", &[]),
        ("server; rm -rf /", &[]),
        ("server && id", &[]),
        ("server|tee", &[]),
        ("server&", &[]),
        ("$(id)", &[]),
        ("${SHELL}", &[]),
        ("$SHELL", &[]),
        ("`id`", &[]),
        ("server>out", &[]),
        ("server<in", &[]),
        ("/bin/*", &[]),
        ("serv?r", &[]),
        ("(server)", &[]),
        ("\"server\"", &[]),
        ("'server'", &[]),
        ("sh", &["-c", "id"]),
        ("sh", &[]),
        ("/bin/sh", &["-c", "id"]),
        ("/usr/bin/../bin/bash", &["-lc", "id"]),
        ("./bash", &[]),
        ("BASH", &[]),
        ("zsh", &["-c", "id"]),
        ("dash", &["-c", "id"]),
        ("ksh", &["-c", "id"]),
        ("fish", &["-c", "id"]),
        ("tcsh", &["-c", "id"]),
        ("nu", &["-c", "id"]),
        ("cmd", &["/c", "dir"]),
        ("cmd.exe", &["/c", "dir"]),
        ("C:\\Windows\\System32\\cmd.exe", &["/c", "dir"]),
        ("powershell", &["-Command", "dir"]),
        ("pwsh", &["-c", "dir"]),
        ("env", &["sh", "-c", "id"]),
        ("/usr/bin/env", &["-S", "bash", "-c", "id"]),
        ("env", &["A=b", "/bin/sh"]),
        ("busybox", &["sh", "-c", "id"]),
        ("sudo", &["bash"]),
        ("nohup", &["/bin/zsh"]),
        ("timeout", &["5", "sh", "-c", "id"]),
        ("xargs", &["sh"]),
        ("setsid", &["dash"]),
    ];

    const VARIABLES: &[(&str, &str)] = &[("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")];

    const HEADERS: &[(&str, &str)] = &[
        ("Host", "evil.example"),
        ("host", "127.0.0.1"),
        ("HOST", "x"),
        (":authority", "evil.example"),
        ("Origin", "https://evil.example"),
        ("Referer", "https://evil.example"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("Connection", "upgrade"),
        ("Upgrade", "websocket"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Expect", "100-continue"),
        ("Proxy-Authorization", "Basic x"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("Forwarded", "for=127.0.0.1"),
        ("Via", "x"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Accept", "text/html"),
        ("Content-Type", "text/plain"),
        ("Content-Encoding", "gzip"),
        ("Last-Event-ID", "1"),
        ("Mcp-Session-Id", "stolen"),
        ("MCP-Protocol-Version", "1999-01-01"),
        ("Mcp-Method", "tools/list"),
        ("Mcp-Name", "other"),
        ("Mcp-Param-Region", "eu"),
        ("", "x"),
        ("A B", "x"),
        ("A:", "x"),
        ("A\r\nB", "x"),
        ("Ä", "x"),
        ("A", "x\r\nHost: evil.example"),
        ("A", "x\nB: c"),
        ("A", "x\0"),
        ("A", "ä"),
    ];

    /// Says why a command or a pair is refused; nothing if it is not.
    type Command = fn(&str, &[String]) -> Option<&'static str>;
    type Pair = fn(&str, &str) -> Option<&'static str>;

    fn owned(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    /// Returns how many cases there are, and which of them these guards let through.
    fn let_through(command: Command, variable: Pair, header: Pair) -> (usize, Vec<String>) {
        let commands = COMMANDS.iter();
        let commands = commands.filter(|(name, args)| command(name, &owned(args)).is_none());
        let commands = commands.map(|case| format!("{case:?}"));
        let pairs = |table: &'static [(&str, &str)], guard: Pair| {
            let passed = table
                .iter()
                .filter(move |(name, value)| guard(name, value).is_none());
            passed.map(|case| format!("{case:?}"))
        };
        let pairs = pairs(VARIABLES, variable).chain(pairs(HEADERS, header));
        let cases = COMMANDS.len() + VARIABLES.len() + HEADERS.len();
        (cases, commands.chain(pairs).collect())
    }

    /// The planted twins: each guard alone taken away or written too simply lets something
    /// through, so the row can fail.
    #[test]
    fn x6_twin_a_missing_guard_is_noticed() {
        let by_name: Command = |name, _| ["sh", "bash"].contains(&name).then_some("a shell");
        let by_letters: Pair = |name, _| name.is_empty().then_some("a name");
        for (command, variable, header) in [
            (by_name, variable_refusal as Pair, header_refusal as Pair),
            (refusal as Command, by_letters, header_refusal as Pair),
            (refusal as Command, variable_refusal as Pair, by_letters),
        ] {
            assert!(!let_through(command, variable, header).1.is_empty());
        }
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "the scoreboard reads this line")]
    fn x6_command_lines_variables_and_headers_that_do_harm_are_refused() {
        let started = std::time::Instant::now();
        let (cases, passed) = let_through(refusal, variable_refusal, header_refusal);
        // The twin: what is ordinary passes.
        for (command, args) in [
            ("npx", &["-y", "server"][..]),
            ("/opt/my tools (new)/server", &["--say", "a;b|c$(d)"]),
            ("env", &["A=b", "server"]),
            ("python3", &["-m", "mcp_server_git"]),
        ] {
            assert_eq!(refusal(command, &owned(args)), None, "{command}");
        }
        assert_eq!(header_refusal("Authorization", "Bearer abc"), None);
        assert_eq!(header_refusal("X-Api-Key", "abc"), None);
        assert_eq!(variable_refusal("TOKEN", "a=b"), None);
        println!(
            "X6-argv {cases} {} {:.3}",
            passed.len(),
            started.elapsed().as_secs_f64()
        );
        assert!(passed.is_empty(), "{passed:?}");
        assert!(cases >= 80, "{cases}");
    }
}
