//! Rounds of contenders, interleaved: a ratio is always of two runs that stood next to each other
//! under the same load of the machine.
//!
//! `statistics` decides and `plot` draws, both pure; the rest does I/O.

mod machine;
mod measure;
mod plot;
mod report;
mod statistics;

use std::path::{Path, PathBuf};
use std::pin::Pin;

pub use measure::{Progress, Written, observe, repeat};
pub use report::summary;
use statistics::{Ruling, rule};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub is_quick: bool,
    pub rounds: usize,
    pub warm_up: std::time::Duration,
    pub window: std::time::Duration,
}

impl Plan {
    pub fn new(is_quick: bool) -> Self {
        let [rounds, warm_up, window] = if is_quick {
            [3, 30, 150]
        } else {
            [9, 100, 500]
        };
        Self {
            is_quick,
            rounds: rounds as usize,
            warm_up: std::time::Duration::from_millis(warm_up),
            window: std::time::Duration::from_millis(window),
        }
    }
}

/// What one contender did in one round.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Operations a second.
    pub rate: f64,
    /// What each operation took of anything else: syncs, bytes, allocations.
    pub per_operation: Vec<(&'static str, f64)>,
}

type Running = Pin<Box<dyn Future<Output = Outcome<Figures>>>>;

/// One of those who are compared.
pub struct Contender {
    name: String,
    run: Box<dyn Fn(Plan, PathBuf) -> Running>,
}

/// What a contender is held against.
#[derive(Debug, Clone)]
pub enum Bar {
    /// So many times the rate of another contender.
    Times(f64, String),
    /// So many operations a second, whoever else runs.
    PerSecond(f64),
}

/// A promise about one contender.
#[derive(Debug, Clone)]
pub struct Target {
    pub of: String,
    pub at_least: Bar,
}

/// Contenders that do the same work.
pub struct Table {
    name: String,
    contenders: Vec<Contender>,
    targets: Vec<Target>,
}

impl Table {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            contenders: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds a contender; the first is what the printed ratios are to. It gets an empty directory
    /// on the disk that is measured.
    pub fn contender<F, Ran>(mut self, name: impl Into<String>, run: F) -> Self
    where
        F: Fn(Plan, PathBuf) -> Ran + 'static,
        Ran: Future<Output = Outcome<Figures>> + 'static,
    {
        self.contenders.push(Contender {
            name: name.into(),
            run: Box::new(move |plan, directory| Box::pin(run(plan, directory))),
        });
        self
    }

    /// Says that `of` does at least `factor` times as much as `other`.
    pub fn target(mut self, of: &str, factor: f64, other: &str) -> Self {
        self.targets.push(Target {
            of: of.to_owned(),
            at_least: Bar::Times(factor, other.to_owned()),
        });
        self
    }

    /// Says that `of` does at least so many a second.
    pub fn rate_target(mut self, of: &str, per_second: f64) -> Self {
        self.targets.push(Target {
            of: of.to_owned(),
            at_least: Bar::PerSecond(per_second),
        });
        self
    }

    /// The figures of each contender, one for each round.
    fn rounds(&self, plan: Plan, tokio: &tokio::runtime::Runtime) -> Outcome<Vec<Vec<Figures>>> {
        let mut figures: Vec<Vec<Figures>> = self.contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..plan.rounds {
            for (contender, figures) in self.contenders.iter().zip(&mut figures) {
                let directory = scratch()?;
                let run = (contender.run)(plan, directory.path().to_owned());
                let done = tokio.block_on(run);
                figures.push(done.map_err(|error| format!("{}: {error}", contender.name))?);
            }
        }
        Ok(figures)
    }

    fn rule(&self, figures: &[Vec<Figures>]) -> Outcome<Vec<Ruling>> {
        let rates = |name: &str| -> Outcome<Vec<f64>> {
            let place = self.contenders.iter().position(|one| one.name == name);
            let place = place.ok_or_else(|| format!("{}: nobody is {name}", self.name))?;
            Ok(figures[place].iter().map(|figures| figures.rate).collect())
        };
        let rulings = self.targets.iter().map(|target| {
            let other = match &target.at_least {
                Bar::Times(_, other) => Some(rates(other)?),
                Bar::PerSecond(_) => None,
            };
            Ok(rule(target, &rates(&target.of)?, other.as_deref()))
        });
        rulings.collect()
    }
}

/// What became of a target of a table.
#[derive(Debug, Clone)]
pub struct Ruled {
    group: String,
    table: String,
    ruling: Ruling,
}

impl Ruled {
    pub fn is_met(&self) -> bool {
        self.ruling.is_met()
    }
}

/// Runs the tables of a group, prints them, leaves JSON and a plot; says what became of the
/// targets. A table with a ratio that varies too much to be a result is run once more.
pub fn run(
    group: &str,
    tables: Vec<Table>,
    plan: Plan,
    tokio: &tokio::runtime::Runtime,
) -> Outcome<Vec<Ruled>> {
    let before = machine::describe();
    report::print_head(group, plan, &before);
    let mut results = Vec::new();
    let mut ruled = Vec::new();
    for table in &tables {
        let mut figures = table.rounds(plan, tokio)?;
        let mut rulings = table.rule(&figures)?;
        let is_unsteady = rulings.iter().any(Ruling::is_no_result);
        if is_unsteady && !plan.is_quick {
            println!("\n{}: too much spread, run again", table.name);
            figures = table.rounds(plan, tokio)?;
            rulings = table.rule(&figures)?;
        }
        results.push(report::print_table(table, &figures, &rulings));
        ruled.extend(rulings.into_iter().map(|ruling| Ruled {
            group: group.to_owned(),
            table: table.name.clone(),
            ruling,
        }));
    }
    report::write(group, plan, &before, &results)?;
    Ok(ruled)
}

/// A fresh directory on the disk of the target directory, since `/tmp` may be memory.
pub fn scratch() -> Outcome<tempfile::TempDir> {
    let parent = output();
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new()
        .prefix("data-")
        .tempdir_in(parent)?)
}

/// Where results go: beside the directory of the profile that this program was built in.
fn output() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(2).unwrap_or(Path::new("."));
    target.join("results")
}
