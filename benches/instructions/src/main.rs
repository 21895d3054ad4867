//! `instructions PATH TIMES` runs one single-threaded path so many times and ends.
//!
//! `cargo xtask instructions` runs it under an instruction counter with two numbers of times; the
//! difference is what the path costs, free of start and preparation.

use std::process::ExitCode;

use instructions::{Outcome, PATHS, PLANTED};

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
    let mut paths = PATHS.iter().chain([&PLANTED]);
    let path = paths.find(|path| path.0 == name);
    let (_, prepare) = path.ok_or_else(|| format!("there is no path {name}"))?;
    let mut act = prepare()?;
    for _ in 0..times.parse::<u32>()? {
        act()?;
    }
    Ok(())
}
