//! The rounds, and their table.

use std::pin::Pin;

use crate::{Outcome, Plan, dbos_steps, own_steps};

/// As many as DBOS opens unless it is told otherwise.
const DBOS_CONNECTIONS: u32 = 10;

type Run<'a> = Pin<Box<dyn Future<Output = Outcome<f64>> + 'a>>;

pub(crate) async fn run(plan: &Plan, url: &str) -> Outcome<()> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let before = load();
    for workflows in [1, 16, 64] {
        let names = [
            "this runtime, retry-safe (1 write)".to_owned(),
            "this runtime, not retry-safe (2 writes)".to_owned(),
            format!("DBOS, {DBOS_CONNECTIONS} connections (its default)"),
            "DBOS, a connection for each workflow".to_owned(),
        ];
        let each = u32::try_from(workflows)?.max(DBOS_CONNECTIONS);
        let mut rates = names.each_ref().map(|_| Vec::new());
        for _ in 0..plan.rounds {
            let round: [Run<'_>; 4] = [
                Box::pin(own_steps::run(plan, url, workflows, true)),
                Box::pin(own_steps::run(plan, url, workflows, false)),
                Box::pin(dbos_steps::run(plan, url, workflows, DBOS_CONNECTIONS)),
                Box::pin(dbos_steps::run(plan, url, workflows, each)),
            ];
            for (rates, run) in rates.iter_mut().zip(round) {
                rates.push(run.await?);
            }
        }
        print(workflows, &names, &rates);
    }
    println!("\nload {} to {}", before.trim(), load().trim());
    Ok(())
}

fn print(workflows: usize, names: &[String], rates: &[Vec<f64>]) {
    println!(
        "\n{:<42} {:>9} {:>7}   the first is so many times as fast: median, lower quartile",
        format!("steps, {workflows} workflows at once"),
        "median/s",
        "spread"
    );
    for (name, own) in names.iter().zip(rates) {
        let sorted = sorted(own.iter().copied());
        let median = sorted[sorted.len() / 2];
        let spread = (sorted[sorted.len() - 1] - sorted[0]) / median;
        let ratios = self::sorted(rates[0].iter().zip(own).map(|(first, own)| first / own));
        println!(
            "  {name:<40} {median:>9.0} {:>6.0}%   {:>7.2} {:>7.2}",
            spread * 100.0,
            ratios[ratios.len() / 2],
            ratios[ratios.len() / 4],
        );
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}
