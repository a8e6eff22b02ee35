//! `distill eval --compare A B`: where two evaluations of the same questions differ.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use evals::comparison::{Comparison, compare};
use serde_json::{Map, Value};

/// What came of one sample.
type Record = Map<String, Value>;

/// Questions that are shown where only one of the two is right.
const SHOWN: usize = 3;
/// Characters that are shown of a prompt, its end.
const SHOWN_OF_PROMPT: usize = 300;

pub fn run(a: &Path, b: &Path, as_json: bool) -> anyhow::Result<()> {
    let (first, second) = (records(a)?, records(b)?);
    let found = compare(&first, &second)
        .with_context(|| format!("{} and {} cannot be compared", a.display(), b.display()))?;
    let mut out = std::io::stdout().lock();
    match as_json {
        true => writeln!(out, "{}", serde_json::to_string(&found)?)?,
        false => write_table(&mut out, &found, (a, b), (&first, &second))?,
    }
    Ok(())
}

fn records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the records {}", path.display()))?;
    let lines = text.lines().enumerate();
    let found: Vec<Record> = lines
        .map(|(at, line)| {
            serde_json::from_str(line).with_context(|| {
                format!(
                    "{}: line {} is no record of a sample",
                    path.display(),
                    at + 1
                )
            })
        })
        .collect::<anyhow::Result<_>>()?;
    match found.is_empty() {
        true => bail!("{}: there are no records in it", path.display()),
        false => Ok(found),
    }
}

fn write_table(
    out: &mut impl Write,
    found: &Comparison,
    (a, b): (&Path, &Path),
    (first, second): (&[Record], &[Record]),
) -> std::io::Result<()> {
    writeln!(out, "A  {}\nB  {}\n", a.display(), b.display())?;
    writeln!(out, "              B right  B wrong")?;
    writeln!(
        out,
        "A right  {:>12}  {:>7}",
        found.both_right,
        found.only_first.len()
    )?;
    writeln!(
        out,
        "A wrong  {:>12}  {:>7}",
        found.only_second.len(),
        found.both_wrong
    )?;
    writeln!(out, "\nMcNemar's p  {:.4} (exact, two-sided)", found.p)?;
    if found.left_out > 0 {
        writeln!(
            out,
            "Only the first sample of each task is compared, {} further ones are left out: samples of one task depend on \
             each other.",
            found.left_out
        )?;
    }
    let only = [
        ("A", "B", &found.only_first),
        ("B", "A", &found.only_second),
    ];
    for (right, wrong, numbers) in only {
        for &number in numbers.iter().take(SHOWN) {
            writeln!(out, "\n--- {number}: {right} is right, {wrong} is wrong")?;
            let of = |records: &'_ [Record]| {
                let is_it = |record: &&Record| record.get("number") == Some(&number.into());
                records.iter().find(is_it).cloned().unwrap_or_default()
            };
            let (mine, other) = (of(first), of(second));
            let prompt = mine
                .get("prompt")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let letters = prompt.chars().count();
            let end: String = prompt
                .chars()
                .skip(letters.saturating_sub(SHOWN_OF_PROMPT))
                .collect();
            writeln!(out, "{end}")?;
            for (name, record) in [("A", mine), ("B", other)] {
                for key in ["log_likelihoods", "output"] {
                    if let Some(value) = record.get(key) {
                        writeln!(out, "{name}: {value}")?;
                    }
                }
            }
        }
    }
    Ok(())
}
