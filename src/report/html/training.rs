//! Curves and tables of the training stages, out of `metrics.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use super::chart::{Chart, chart};
use super::curve::Curve;
use super::page::{Limits, Part, Section, Table, number};
use super::run_files::RunFiles;
use super::stage_files::StageFiles;

/// Numbers that are no curves: they count, or are shown with others.
const NO_CURVES: [&str; 7] = [
    "tokens",
    "supervised_tokens",
    "seconds",
    "heldout_tokens",
    "heldout_pairs",
    "pairs",
    "on_policy/sequences",
];
/// Charts of several numbers: a title, and their keys.
const TOGETHER: [(&str, &[&str]); 9] = [
    ("Learning rate", &["learning_rate"]),
    ("Gradient norm", &["gradient_norm"]),
    ("Tokens a second", &[SPEED]),
    ("Accuracy on pairs", &["accuracy", "heldout_accuracy"]),
    ("Margin", &["margin", "heldout_margin"]),
    ("Rewards", &["chosen_reward", "rejected_reward"]),
    (
        "Log-probabilities of answers",
        &["chosen_log_prob", "rejected_log_prob"],
    ),
    (
        "Seconds of an on-policy step",
        &[
            "on_policy/generate_seconds",
            "on_policy/score_seconds",
            "on_policy/train_seconds",
        ],
    ),
    (
        "Sequences of a step",
        &["on_policy/generated", "on_policy/replayed"],
    ),
];
/// Charts whose values may lie far apart.
const LOGARITHMIC: [&str; 3] = ["Loss", "Held-out loss", "Gradient norm"];
const LOSS: &str = "loss";
const HELDOUT: [&str; 2] = ["heldout_nll", "heldout_loss"];
const SPEED: &str = "tokens a second";

/// What a `metrics.jsonl` says.
pub struct Training {
    /// By key, those of nested objects joined by `/`, in the order in which they are met.
    curves: Vec<(String, Curve)>,
    pub seconds: f64,
    tokens: f64,
    steps: u64,
    pub unreadable: u64,
}

impl Training {
    /// `None` where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read or holds no step.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = Self {
            curves: Vec::new(),
            seconds: 0.0,
            tokens: 0.0,
            steps: 0,
            unreadable: 0,
        };
        for line in BufReader::new(file).split(b'\n') {
            let record = serde_json::from_slice::<Value>(&line?).ok();
            match record.and_then(|record| record["step"].as_u64().map(|step| (step, record))) {
                Some((step, record)) => found.add(step, &record),
                None => found.unreadable += 1,
            }
        }
        match found.curves.is_empty() {
            true => bail!("there is no step in it"),
            false => Ok(Some(found)),
        }
    }

    fn add(&mut self, step: u64, record: &Value) {
        self.collect(step, "", record);
        if let (Some(tokens), Some(seconds)) =
            (record["tokens"].as_f64(), record["seconds"].as_f64())
        {
            self.tokens += tokens;
            self.seconds += seconds;
            self.steps += 1;
            if seconds > 0.0 {
                self.push(SPEED, step, tokens / seconds);
            }
        }
    }

    fn collect(&mut self, step: u64, key: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match key {
                        "" if name == "step" => {}
                        "" => self.collect(step, name, value),
                        _ => self.collect(step, &format!("{key}/{name}"), value),
                    }
                }
            }
            Value::Number(number) => {
                if let Some(value) = number.as_f64().filter(|value| value.abs() < 1e300) {
                    self.push(key, step, value);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, key: &str, step: u64, value: f64) {
        match self.curves.iter_mut().find(|(known, _)| known == key) {
            Some((_, curve)) => curve.push(step, value),
            None => self.curves.push((key.to_string(), Curve::new(step, value))),
        }
    }

    fn curve(&self, key: &str) -> Option<&Curve> {
        let found = self.curves.iter().find(|(known, _)| known == key);
        found.map(|(_, curve)| curve)
    }

    /// The listed losses, where there are several.
    fn parts(&self) -> Vec<&str> {
        let keys = self.curves.iter().map(|(key, _)| key.as_str());
        keys.filter(|key| key.starts_with("losses/")).collect()
    }

    /// Which keys are drawn together: titles and keys. A held-out loss stands beside the training loss where both are the
    /// same quantity.
    fn groups(&self) -> Vec<(String, Vec<String>)> {
        let parts = self.parts();
        let is_label = |key: &str| key.starts_with("losses/cross_entropy");
        let same = parts.len() <= 1 && (parts.first()).is_none_or(|key| is_label(key));
        let mut training = vec![LOSS];
        let mut heldout: Vec<&str> = HELDOUT
            .into_iter()
            .filter(|key| self.curve(key).is_some())
            .collect();
        if parts.len() > 1 {
            training.extend(&parts);
        }
        let pairs = self.curve("heldout_loss").is_some();
        if same || pairs {
            training.append(&mut heldout);
        } else if !heldout.is_empty() {
            heldout.extend(parts.iter().filter(|key| is_label(key)));
        }
        let of = |title: &str, keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_string());
            (title.to_string(), keys.collect::<Vec<_>>())
        };
        let mut groups = vec![of("Loss", &training), of("Held-out loss", &heldout)];
        groups.extend(TOGETHER.iter().map(|(title, keys)| of(title, keys)));
        let known: Vec<String> = groups.iter().flat_map(|(_, keys)| keys.clone()).collect();
        let shown = |key: &String| {
            !known.contains(key)
                && !NO_CURVES.contains(&key.as_str())
                && !key.starts_with("losses/")
        };
        let alone = self
            .curves
            .iter()
            .map(|(key, _)| key)
            .filter(|key| shown(key));
        groups.extend(alone.map(|key| of(&spoken(key), &[key])));
        groups
    }
}

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("training", "Training");
    let heads = [
        "stage",
        "#steps",
        "#tokens",
        "#time in steps",
        "#tokens a second",
        "#loss first",
        "#loss last",
        "#held-out first",
        "#held-out best",
        "#held-out last",
    ];
    let mut table = Table::new("Training stages", &heads);
    let matched = matched(runs);
    for (run, stage, training) in matched.iter().flat_map(|(_, stages)| stages) {
        let title = match runs.len() > 1 {
            true => format!("{} ({})", stage.title(), run.label),
            false => stage.title(),
        };
        let mut row = vec![title];
        row.extend(training.summary());
        table.rows.push(row);
    }
    section.table(table, limits);
    let mut charts = 0;
    for (title, stages) in matched {
        let drawn = drawn(&stages, runs.len() > 1, limits);
        charts += drawn.len();
        if charts > limits.charts {
            section.text("Further curves are left out: they are in metrics.jsonl.");
            break;
        }
        section.parts.push(Part::Heading { text: title });
        for (_, _, training) in &stages {
            section.table(training.preferences(), limits);
        }
        section.parts.push(Part::Charts { charts: drawn });
    }
    section
}

type Stage<'a> = (&'a RunFiles, &'a StageFiles, &'a Training);

/// The training stages; with two runs those together that have the same kind and name, or place.
fn matched(runs: &[RunFiles]) -> Vec<(String, Vec<Stage<'_>>)> {
    let mut found: Vec<(String, Vec<Stage>)> = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        for stage in &run.stages {
            let Some(training) = &stage.training else {
                continue;
            };
            let described = &stage.described;
            let fits = |(_, others): &&mut (String, Vec<Stage>)| {
                let (_, other, _) = others[0];
                let other = &other.described;
                others.len() == at
                    && other.kind == described.kind
                    && match &described.name {
                        Some(name) => other.name.as_ref() == Some(name),
                        None => other.name.is_none() && other.stage == described.stage,
                    }
            };
            match found.iter_mut().find(fits) {
                Some((_, stages)) => stages.push((run, stage, training)),
                None => found.push((stage.title(), vec![(run, stage, training)])),
            }
        }
    }
    found
}

fn drawn(stages: &[Stage], two: bool, limits: &Limits) -> Vec<Chart> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (_, _, training) in stages {
        for (title, keys) in training.groups() {
            match groups.iter_mut().find(|(known, _)| *known == title) {
                Some((_, known)) => known.extend(
                    keys.into_iter()
                        .filter(|key| !known.contains(key))
                        .collect::<Vec<_>>(),
                ),
                None => groups.push((title, keys)),
            }
        }
    }
    let charts = groups.iter().filter_map(|(title, keys)| {
        let curves = keys.iter().flat_map(|key| {
            stages.iter().filter_map(move |(run, _, training)| {
                let name = match two {
                    true => format!("{}: {}", run.label, spoken(key)),
                    false => spoken(key),
                };
                Some((name, training.curve(key)?))
            })
        });
        chart(
            title,
            &curves.collect::<Vec<_>>(),
            LOGARITHMIC.contains(&title.as_str()),
            limits,
        )
    });
    charts.collect()
}

impl Training {
    fn summary(&self) -> Vec<String> {
        let ends = |curve: Option<&Curve>| match curve {
            Some(curve) => [number(curve.first.1), number(curve.last.1)],
            None => ["–".to_string(), "–".to_string()],
        };
        let heldout = HELDOUT.iter().find_map(|key| self.curve(key));
        let [first, last] = ends(self.curve(LOSS));
        let [heldout_first, heldout_last] = ends(heldout);
        let best = heldout.map_or_else(
            || "–".to_string(),
            |curve| format!("{} (step {})", number(curve.least().1), curve.least().0),
        );
        let speed = match self.seconds > 0.0 {
            true => format!("{:.0}", self.tokens / self.seconds),
            false => "–".to_string(),
        };
        vec![
            self.steps.to_string(),
            format!("{:.0}", self.tokens),
            super::resources::duration(self.seconds),
            speed,
            first,
            last,
            heldout_first,
            best,
            heldout_last,
        ]
    }

    /// What was measured on held-out pairs before and after.
    fn preferences(&self) -> Table {
        let heads = ["held-out pairs", "#before", "#after", "#difference"];
        let mut table = Table::new("Preferences", &heads);
        let measures = [
            ("loss", "heldout_loss"),
            ("accuracy", "heldout_accuracy"),
            ("margin", "heldout_margin"),
        ];
        for (name, key) in measures {
            if let Some(curve) = self.curve(key) {
                let (before, after) = (curve.first.1, curve.last.1);
                let difference = format!("{:+.4}", after - before);
                table.row([name.to_string(), number(before), number(after), difference]);
            }
        }
        table
    }
}

/// `losses/forward_kl.0` as `forward_kl.0`, `heldout_nll` as `held-out nll`.
fn spoken(key: &str) -> String {
    let key = key.strip_prefix("losses/").unwrap_or(key);
    if key == LOSS {
        return "training loss".to_string();
    }
    if key.contains('.') {
        return key.to_string();
    }
    let key = key
        .replace("heldout", "held-out")
        .replace("on_policy/", "on-policy: ");
    key.replace('_', " ")
}
