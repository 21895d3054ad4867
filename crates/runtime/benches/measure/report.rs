//! Rounds, their figures, and how they are shown.

use std::pin::Pin;

use serde_json::{Value, json};

use super::{Figures, Outcome, Plan, machine, output, runtime, scratch};

type Run<'a> = Pin<Box<dyn Future<Output = Outcome<Figures>> + 'a>>;

/// One of those who are compared.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The share of the floor that it must reach one day.
    pub(crate) target: Option<f64>,
    #[expect(clippy::type_complexity, reason = "named once, here")]
    pub(crate) run: Box<dyn for<'a> Fn(&'a Plan, &'a std::path::Path) -> Run<'a>>,
}

/// Contenders that do the same work; the first is the floor.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) contenders: Vec<Contender>,
}

/// Tables that are run by one command.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) tables: Vec<Table>,
}

impl Group {
    /// Runs everything, prints a line for each contender and writes the result as JSON.
    pub(crate) fn run(&self, plan: &Plan) -> Outcome<()> {
        let before = machine::describe();
        println!(
            "{}: {} rounds, cores {}, memory {} GiB, load {}",
            self.name, plan.rounds, before["cores"], before["memory_gib"], before["load"]
        );
        let mut tables = Vec::new();
        for table in &self.tables {
            let rounds = table.rounds(plan)?;
            tables.push(table.report(&rounds));
        }
        let after = machine::describe();
        println!("load at the end {}", after["load"]);
        let result = json!({
            "group": self.name, "quick": plan.is_quick, "rounds": plan.rounds,
            "machine": before, "load_after": after["load"], "tables": tables,
        });
        let path = output().join(format!("{}.json", self.name));
        std::fs::write(&path, serde_json::to_vec_pretty(&result)?)?;
        Ok(())
    }
}

impl Table {
    /// The figures of each contender, one for each round.
    fn rounds(&self, plan: &Plan) -> Outcome<Vec<Vec<Figures>>> {
        let mut figures: Vec<Vec<Figures>> = self.contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..plan.rounds {
            for (contender, figures) in self.contenders.iter().zip(&mut figures) {
                let directory = scratch()?;
                figures.push(runtime()?.block_on((contender.run)(plan, directory.path()))?);
            }
        }
        Ok(figures)
    }

    fn report(&self, figures: &[Vec<Figures>]) -> Value {
        println!(
            "\n{:<34} {:>10} {:>7} {:>10} {:>8} {:>7}   share of the floor: median, lower quartile, target",
            self.name, "median/s", "spread", "flushes/op", "bytes/op", "cpu us"
        );
        let floor = &figures[0];
        let contenders = self.contenders.iter().zip(figures);
        let contenders: Vec<Value> = contenders
            .map(|(contender, figures)| contender.report(figures, floor))
            .collect();
        json!({ "name": self.name, "contenders": contenders })
    }
}

impl Contender {
    fn report(&self, figures: &[Figures], floor: &[Figures]) -> Value {
        let rates = sorted(figures.iter().map(|figures| figures.rate));
        let flushes = quantile(&sorted(figures.iter().map(|figures| figures.flushes)), 0.5);
        let bytes = quantile(&sorted(figures.iter().map(|figures| figures.bytes)), 0.5);
        let cpu = quantile(
            &sorted(figures.iter().map(|figures| figures.cpu_micros)),
            0.5,
        );
        let median = quantile(&rates, 0.5);
        let spread = (rates[rates.len() - 1] - rates[0]) / median;
        let pairs = figures.iter().zip(floor);
        let ratios = sorted(pairs.map(|(figures, floor)| figures.rate / floor.rate));
        let (ratio, quartile) = (quantile(&ratios, 0.5), quantile(&ratios, 0.25));
        let target = self.target.map_or(String::new(), |target| {
            let verdict = if quartile >= target { "met" } else { "missed" };
            format!("  {target:.2} {verdict}")
        });
        println!(
            "  {:<32} {median:>10.0} {:>6.0}% {flushes:>10.3} {bytes:>8.0} {cpu:>7.1}   {ratio:.2}  {quartile:.2}{target}",
            self.name,
            spread * 100.0
        );
        json!({
            "name": self.name, "median": median, "spread": spread, "rates": rates,
            "flushes_per_operation": flushes, "bytes_per_operation": bytes, "cpu_micros_per_operation": cpu,
            "ratio_median": ratio, "ratio_lower_quartile": quartile, "ratios": ratios,
            "target": self.target,
        })
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The nearest value at or below that share of a sorted list.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
