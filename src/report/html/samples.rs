//! Texts: what training saw, with its masks; what students and teachers wrote; what models answered when they were scored.

use serde_json::{Map, Value};

use super::page::{Limits, Part, Piece, Sample, Section, Style, cut};
use super::run_files::RunFiles;
use super::stage_files::StageFiles;
use crate::stages::{DATA, Seen, SeenSample};

/// Files of records, with what they are.
const RECORDS: [(&str, &str); 3] = [
    ("ratings.jsonl", "rated answers"),
    (DATA, "records"),
    ("dropped.jsonl", "dropped records"),
];
/// Fields of records that say where they come from or cost a page.
const LEFT_OUT: [&str; 7] = [
    "lineage",
    "logprobs",
    "seconds",
    "digest",
    "seed_digest",
    "log_likelihoods",
    "number",
];

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("samples", "Samples");
    section.each(
        runs,
        |run| &run.label,
        |run, section| {
            // A long chain shows fewer of each.
            let limits = Limits {
                samples: (limits.samples * 12 / run.stages.len().max(12)).max(1),
                ..*limits
            };
            let most = limits.charts;
            let all = run.stages.iter().flat_map(|stage| of_stage(stage, &limits));
            let parts = all.filter(|(_, samples)| !samples.is_empty()).take(most);
            section
                .parts
                .extend(parts.map(|(title, samples)| Part::Samples { title, samples }));
        },
    );
    section
}

fn of_stage(stage: &StageFiles, limits: &Limits) -> Vec<(String, Vec<Sample>)> {
    let title = stage.title();
    let mut found = Vec::new();
    if let Ok(Some(seen)) = Seen::read(&stage.directory) {
        let samples = (seen.samples.iter())
            .take(limits.samples)
            .map(|sample| masked(stage, &seen, sample, limits));
        found.push((format!("{title}: what it learned from"), samples.collect()));
    }
    let texts = written(stage, limits);
    found.push((format!("{title}: what the student wrote"), texts));
    for (file, what) in RECORDS {
        let samples = records(stage, file, limits);
        found.push((format!("{title}: {what}"), samples));
    }
    for file in stage.files("records-") {
        let model = file.trim_end_matches(".jsonl");
        let model = model.splitn(3, '-').nth(2).unwrap_or(model);
        found.push((
            format!("{title}: answers of {model}"),
            records(stage, &file, limits),
        ));
    }
    found
}

/// A training sample as the model saw it.
fn masked(stage: &StageFiles, seen: &Seen, sample: &SeenSample, limits: &Limits) -> Sample {
    let key = format!("data.{}.name", sample.part);
    let data = stage.input(&key).or_else(|| stage.input("data"));
    let data = data.map_or("data", |input| &input.name);
    let name = match seen.pairs {
        true => format!(
            "pair {}, {}",
            sample.number / 2 + 1,
            ["chosen", "rejected"][sample.number % 2]
        ),
        false => format!("sample {}", sample.number + 1),
    };
    let mut left = limits.text;
    let mut pieces = Vec::new();
    for run in &sample.runs {
        let text = cut(&run.text, left);
        left = left.saturating_sub(run.text.chars().count());
        let style = if run.learned {
            Style::Learned
        } else {
            Style::Masked
        };
        pieces.push(Piece { text, style });
        if left == 0 {
            break;
        }
    }
    let beyond = sample.tokens.saturating_sub(sample.fits);
    let mut notes = Vec::new();
    if sample.shown < sample.fits || left == 0 {
        notes.push("its beginning".to_string());
    }
    if beyond > 0 {
        let becomes = if sample.splittable {
            "follow in rows of their own"
        } else {
            "are cut off"
        };
        notes.push(format!("{beyond} tokens beyond the row {becomes}"));
    }
    Sample {
        title: format!("{data}, {name}: {} tokens", sample.tokens),
        pieces,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

/// The first and the last that a student wrote itself.
fn written(stage: &StageFiles, limits: &Limits) -> Vec<Sample> {
    let file = "samples.jsonl";
    let mut found = stage.first_records(file, limits.samples);
    for record in stage.last_records(file, limits.samples) {
        if !found.contains(&record) {
            found.push(record);
        }
    }
    let sample = |record: &Value| {
        let [prompt, text] = ["prompt", "text"].map(|key| record[key].as_str().unwrap_or_default());
        Sample {
            title: format!(
                "step {}: {} tokens, {}",
                record["step"],
                record["tokens"],
                plain(&record["finish_reason"])
            ),
            pieces: vec![
                Piece {
                    text: cut(prompt, limits.text / 2),
                    style: Style::Masked,
                },
                Piece {
                    text: cut(text, limits.text / 2),
                    style: Style::Learned,
                },
            ],
            note: None,
        }
    };
    found.iter().map(sample).collect()
}

fn records(stage: &StageFiles, file: &str, limits: &Limits) -> Vec<Sample> {
    let found = stage.first_records(file, limits.samples);
    let sample = |(at, record): (usize, &Value)| {
        let mut pieces = Vec::new();
        if let Value::Object(fields) = record {
            add_fields(fields, &mut pieces);
        }
        let mut left = limits.text;
        for piece in &mut pieces {
            let length = piece.text.chars().count();
            piece.text = cut(&piece.text, left.max(1));
            left = left.saturating_sub(length);
        }
        pieces.truncate(40);
        Sample {
            title: format!("record {}", at + 1),
            pieces,
            note: None,
        }
    };
    found.iter().enumerate().map(sample).collect()
}

/// Every field under its name; a conversation by its turns.
fn add_fields(fields: &Map<String, Value>, pieces: &mut Vec<Piece>) {
    for (name, value) in fields {
        let is_turns = |value: &Value| {
            value
                .as_array()
                .is_some_and(|turns| turns.iter().all(|turn| turn.get("content").is_some()))
        };
        if LEFT_OUT.contains(&name.as_str()) || value.is_null() {
            continue;
        }
        if is_turns(value) {
            for turn in value.as_array().into_iter().flatten() {
                let role = plain(&turn["role"]);
                let label = if name == "messages" {
                    role
                } else {
                    format!("{name}, {role}")
                };
                add(label, plain(&turn["content"]), pieces);
            }
        } else {
            add(name.clone(), plain(value), pieces);
        }
    }
}

fn add(label: String, text: String, pieces: &mut Vec<Piece>) {
    pieces.push(Piece {
        text: label,
        style: Style::Label,
    });
    pieces.push(Piece {
        text,
        style: Style::Plain,
    });
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
