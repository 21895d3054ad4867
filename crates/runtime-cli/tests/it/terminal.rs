//! A real terminal (tmux): `watch` shows what happens and a key answers it; the terminal is as it
//! was afterwards. Where tmux is not installed the test says that it was skipped.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::command_line::{Home, wait_until};

/// A terminal of its own, ended with the value.
struct Terminal {
    socket: String,
}

impl Terminal {
    #[expect(clippy::print_stdout, reason = "a skip is reported")]
    fn open(home: &Home) -> Option<Self> {
        let found = Command::new("tmux").arg("-V").output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: tmux is not installed");
            return None;
        }
        let socket = home.path().with_extension("tmux").display().to_string();
        let terminal = Self { socket };
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "env PS1='ready ' sh",
        ]);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command
            .args(["-S", &self.socket, "-f", "/dev/null"])
            .args(arguments);
        command.env_remove("TMUX");
        let output = command.output().expect("tmux starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn press(&self, keys: &str) {
        self.tmux(&["send-keys", "-t", "0", keys]);
    }

    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "0", "-l", text]);
        self.press("Enter");
    }

    /// Waits until the screen shows a word so often.
    fn until_count(&self, word: &str, count: usize) {
        let started = Instant::now();
        while self
            .tmux(&["capture-pane", "-p", "-t", "0"])
            .matches(word)
            .count()
            < count
        {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "waited in vain for {word}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The screen, once it shows all of the words.
    fn until(&self, words: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p", "-t", "0"]);
            if words.iter().all(|word| screen.contains(word)) {
                return screen;
            }
            let waited = started.elapsed() > Duration::from_secs(60);
            assert!(!waited, "waited in vain for {words:?}:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

fn program(home: &Home) -> String {
    let program = env!("CARGO_BIN_EXE_agent-runtime");
    format!("{program} --dir {}", home.path().display())
}

#[test]
fn u4_watch_shows_what_waits_and_a_key_answers_it() {
    let home = Home::new();
    let Some(terminal) = Terminal::open(&home) else {
        return;
    };
    // Another process runs the turn and waits for whoever answers.
    let mut child = home.spawn(&["demo", "--wait"]);
    // At first there is not even a store.
    wait_until(|| home.run(&["pending"]).stdout.contains("approval"));
    terminal.line(&format!("{} watch", program(&home)));
    let screen = terminal.until(&["1 waiting", "> approval", "append_ledger", "a approve"]);
    assert!(screen.contains("demo"), "{screen}");
    terminal.press("a");
    terminal.until(&["0 waiting", "turn_completed", "done by the process"]);
    terminal.press("q");
    // The terminal is as it was: the shell asks again, what is typed is shown and read as a line.
    terminal.until_count("ready", 2);
    terminal.line("echo back $((20 + 3))");
    terminal.until(&["back 23"]);
    assert_eq!(child.wait().expect("the child is ours").code(), Some(0));
    assert_eq!(home.ledger().len(), 1);
}

#[test]
fn u4_the_demo_asks_at_the_terminal_in_colour() {
    let home = Home::new();
    let Some(terminal) = Terminal::open(&home) else {
        return;
    };
    terminal.line(&format!("{} demo", program(&home)));
    terminal.until(&["approve? [y/N]"]);
    let coloured = terminal.tmux(&["capture-pane", "-p", "-e", "-t", "0"]);
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    terminal.line("y");
    terminal.until(&["turn_completed"]);
    assert_eq!(home.ledger().len(), 1);
}
