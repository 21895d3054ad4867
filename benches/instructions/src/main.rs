//! `instructions PATH TIMES` runs one single-threaded path so many times and ends.
//!
//! `cargo xtask instructions` runs it under an instruction counter with two numbers of times; the
//! difference is what the path costs, free of start and preparation. So nothing here may depend on
//! the clock, on chance, or on other threads.

mod paths;

use std::process::ExitCode;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [name, times] => run(name, times),
        _ => Err("instructions PATH TIMES".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, times: &str) -> Outcome<()> {
    let path = paths::PATHS.iter().find(|path| path.0 == name);
    let (_, prepare) = path.ok_or_else(|| format!("there is no path {name}"))?;
    let mut act = prepare()?;
    for _ in 0..times.parse::<u32>()? {
        act()?;
    }
    Ok(())
}
