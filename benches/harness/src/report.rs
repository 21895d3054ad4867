//! What is printed, and what is left in files.

use serde_json::{Value, json};

use super::statistics::{Distribution, Ruling, Verdict, paired};
use super::{Bar, Figures, Outcome, Plan, Ruled, Table, machine, output, plot};

pub(crate) fn print_head(group: &str, plan: Plan, machine: &Value) {
    println!(
        "\n{group}: {} rounds, cores {}, memory {} GiB, load {}",
        plan.rounds, machine["cores"], machine["memory_gib"], machine["load"]
    );
}

/// Prints a table and returns it as JSON.
pub(crate) fn print_table(table: &Table, figures: &[Vec<Figures>], rulings: &[Ruling]) -> Value {
    println!(
        "\n{:<44} {:>12} {:>11} {:>7} {:>8}   per operation",
        table.name, "median/s", "us each", "spread", "x first"
    );
    let all_rates: Vec<Vec<f64>> = figures
        .iter()
        .map(|rounds| rounds.iter().map(|round| round.rate).collect())
        .collect();
    let mut told = Vec::new();
    for (place, contender) in table.contenders.iter().enumerate() {
        let rates = &all_rates[place];
        let distribution = Distribution::of(rates.iter().copied());
        let (median, spread) = (distribution.median(), distribution.spread());
        let ratio = paired(rates, &all_rates[0]).median();
        let others = per_operation(&figures[place]);
        let words = others
            .iter()
            .map(|(name, value)| format!("{name} {value:.3}"));
        println!(
            "  {:<42} {median:>12.1} {:>11.2} {:>6.0}% {ratio:>8.3}   {}",
            contender.name,
            1e6 / median,
            spread * 100.0,
            words.collect::<Vec<_>>().join(", "),
        );
        told.push(json!({
            "name": contender.name, "median_per_second": median, "spread": spread,
            "ratio_to_first": ratio, "rates": rates,
            "per_operation": others.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        }));
    }
    let targets: Vec<Value> = rulings.iter().map(print_ruling).collect();
    json!({ "name": table.name, "contenders": told, "targets": targets })
}

/// The medians of what else was counted.
fn per_operation(rounds: &[Figures]) -> Vec<(&'static str, f64)> {
    let names = rounds[0].per_operation.iter().map(|(name, _)| *name);
    let medians = names.enumerate().map(|(place, name)| {
        let values = rounds.iter().map(|round| round.per_operation[place].1);
        (name, Distribution::of(values).median())
    });
    medians.collect()
}

fn wanted(ruling: &Ruling) -> String {
    let of = &ruling.target.of;
    match &ruling.target.at_least {
        Bar::Times(factor, other) => format!("{of} at least {factor:.2} x {other}"),
        Bar::PerSecond(rate) => format!("{of} at least {rate:.0} a second"),
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::Missed => "MISSED",
        Verdict::NoResult => "NO RESULT",
    }
}

fn print_ruling(ruling: &Ruling) -> Value {
    let (wanted, verdict) = (wanted(ruling), word(ruling.verdict));
    let reached = &ruling.reached;
    let (median, quartile, spread) = (reached.median(), reached.lower_quartile(), reached.spread());
    println!(
        "  {verdict}: {wanted}; median {median:.2}, lower quartile {quartile:.2}, spread {:.0}%",
        spread * 100.0
    );
    json!({
        "target": wanted, "verdict": verdict, "median": median, "lower_quartile": quartile,
        "spread": spread,
    })
}

/// Every target of a run in one table.
pub fn summary(ruled: &[Ruled]) -> String {
    let mut table = format!(
        "{:<9} {:>10} {:>10} {:>7}  {:<10} target\n",
        "verdict", "median", "quartile", "spread", "group"
    );
    for Ruled {
        group,
        table: name,
        ruling,
    } in ruled
    {
        let reached = &ruling.reached;
        table += &format!(
            "{:<9} {:>10.2} {:>10.2} {:>6.0}%  {group:<10} {name}: {}\n",
            word(ruling.verdict),
            reached.median(),
            reached.lower_quartile(),
            reached.spread() * 100.0,
            wanted(ruling),
        );
    }
    let met = ruled.iter().filter(|one| one.is_met()).count();
    table + &format!("{met} of {} targets met\n", ruled.len())
}

/// Leaves JSON and a plot.
pub(crate) fn write(group: &str, plan: Plan, before: &Value, tables: &[Value]) -> Outcome<()> {
    let after = machine::describe();
    let result = json!({
        "group": group, "quick": plan.is_quick, "rounds": plan.rounds,
        "window_ms": plan.window.as_millis() as u64,
        "machine": before, "load_after": after["load"], "tables": tables,
    });
    let path = output().join(group);
    let (figures, drawn) = (path.with_extension("json"), path.with_extension("svg"));
    std::fs::create_dir_all(output())?;
    std::fs::write(&figures, serde_json::to_vec_pretty(&result)?)?;
    std::fs::write(&drawn, plot::draw(group, &bars(tables)))?;
    println!(
        "\nload at the end {}; {} and {}",
        after["load"],
        figures.display(),
        drawn.display()
    );
    Ok(())
}

/// The bars of the plot: each table with the medians of its contenders.
fn bars(tables: &[Value]) -> Vec<plot::Bars> {
    let bars = tables.iter().map(|table| {
        let contenders = table["contenders"].as_array().into_iter().flatten();
        let bars = contenders.map(|contender| {
            let name = contender["name"].as_str().unwrap_or_default();
            let rate = contender["median_per_second"].as_f64();
            (name.to_owned(), rate.unwrap_or_default())
        });
        let name = table["name"].as_str().unwrap_or_default();
        (name.to_owned(), bars.collect())
    });
    bars.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use crate::statistics::rule;

    #[test]
    fn a_summary_has_a_line_for_each_target_and_counts_those_that_are_met() {
        let ruled = |factor, others: &[f64]| {
            let target = Target {
                of: "ours".to_owned(),
                at_least: Bar::Times(factor, "theirs".to_owned()),
            };
            Ruled {
                group: "append".to_owned(),
                table: "64 writers".to_owned(),
                ruling: rule(&target, &[20.0, 20.0, 20.0], Some(others)),
            }
        };
        let steady = [10.0, 10.0, 10.0];
        let text = summary(&[
            ruled(1.5, &steady),
            ruled(2.5, &steady),
            ruled(1.5, &[1.0, 10.0, 100.0]),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].starts_with("met "), "{text}");
        assert!(lines[2].starts_with("MISSED "), "{text}");
        assert!(lines[3].starts_with("NO RESULT "), "{text}");
        assert!(lines[2].contains(" 2.00 "), "{text}");
        assert!(lines[2].ends_with("append     64 writers: ours at least 2.50 x theirs"));
        assert_eq!(lines[4], "1 of 3 targets met");
    }
}
