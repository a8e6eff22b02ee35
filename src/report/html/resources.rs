//! What a run took: time and memory of its stages, requests and money of its teachers.

use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::Value;

use super::page::{Limits, Section, Table};
use super::run_files::RunFiles;
use super::stage_files::{StageFiles, State};
use crate::run_record::Ended;

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("resources", "Time and memory");
    section.each(runs, |run| &run.label, |run, section| {
        let heads = ["stage", "state", "begun", "#time", "#of it in steps", "#sittings", "#memory at most", "device"];
        let mut table = Table::new("Stages", &heads);
        table.rows.extend(run.stages.iter().map(row));
        let known = run.stages.iter().filter_map(spent);
        let total: f64 = known.sum();
        if total > 0.0 {
            table.remarks.push(format!("all stages together: {}", duration(total)));
        }
        table.remarks.push(
            "A stage that was interrupted has several sittings; the time of one that was killed is not known. Memory is that of \
             this process on the host, not a device's."
                .to_string(),
        );
        section.table(table, limits);
    });
    section
}

/// Seconds of all sittings that have ended.
fn spent(stage: &StageFiles) -> Option<f64> {
    let known = stage.sittings.iter().filter_map(|sitting| sitting.seconds);
    known.reduce(|a, b| a + b)
}

fn row(stage: &StageFiles) -> Vec<String> {
    let none = || "–".to_string();
    let sittings = &stage.sittings;
    let state = match (stage.state, sittings.last().map(|sitting| &sitting.ended)) {
        (State::Done, _) => "done",
        (State::Begun, Some(Ended::Stopped)) => "stopped",
        (State::Begun | State::NotBegun, Some(Ended::Failed(_))) => "failed",
        (State::Begun, _) => "not finished",
        (State::NotBegun, _) => "not begun",
    };
    let steps = stage
        .training
        .as_ref()
        .map(|training| duration(training.seconds));
    let peak = sittings
        .iter()
        .filter_map(|sitting| sitting.peak_bytes)
        .max();
    let mut devices: Vec<&str> = sittings
        .iter()
        .map(|sitting| sitting.machine.device.as_str())
        .collect();
    devices.dedup();
    vec![
        stage.title(),
        state.to_string(),
        sittings
            .first()
            .map_or_else(none, |sitting| date(sitting.started)),
        spent(stage).map_or_else(none, duration),
        steps.unwrap_or_else(none),
        match sittings.len() {
            0 => none(),
            count => count.to_string(),
        },
        peak.map_or_else(none, bytes),
        devices.join(", "),
    ]
}

pub fn ledger(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("ledger", "Ledger of teachers");
    section.each(runs, |run| &run.label, |run, section| {
        let heads = [
            "stage",
            "teacher",
            "#requests",
            "#retries",
            "#answers",
            "#from the store",
            "#tokens read",
            "#tokens written",
            "#dollars",
            "#perhaps dollars more",
        ];
        let mut table = Table::new("All runs of each stage", &heads);
        let mut total = [0.0; 7];
        for stage in &run.stages {
            let Some(ledger) = stage.json::<Value>("ledger.json") else {
                continue;
            };
            let all = &ledger["all_runs"];
            let count = |key: &str| all[key].as_f64().unwrap_or(0.0);
            let counts = [
                count("requests"),
                count("retries"),
                count("answers"),
                count("input_tokens"),
                count("output_tokens"),
                count("dollars"),
                count("possibly_dollars"),
            ];
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            let stored = ledger["last_run"]["from_the_store"].to_string();
            let teacher = stage.input("teacher").map_or_else(String::new, |input| input.name.clone());
            table.rows.push(line(stage.title(), teacher, stored, counts));
        }
        if table.rows.len() > 1 {
            table.rows.push(line("all".to_string(), String::new(), String::new(), total));
        }
        table.remarks.push(
            "“From the store” is of the last run of a stage. The last column is what requests may have cost whose answer never \
             came. Without a price dollars are 0."
                .to_string(),
        );
        section.table(table, limits);
    });
    section
}

fn line(stage: String, teacher: String, stored: String, counts: [f64; 7]) -> Vec<String> {
    let [requests, retries, answers, read, written, dollars, perhaps] = counts;
    let whole = |count: f64| format!("{count:.0}");
    let mut row = vec![stage, teacher];
    row.extend([requests, retries, answers].map(whole));
    row.push(stored);
    row.extend([read, written].map(whole));
    row.extend([dollars, perhaps].map(|dollars| format!("{dollars:.4}")));
    row
}

/// `1h 2m 3s`; of less than a minute with a decimal.
pub fn duration(seconds: f64) -> String {
    match seconds {
        _ if !(0.0..1e12).contains(&seconds) => "–".to_string(),
        _ if seconds < 60.0 => format!("{seconds:.1} s"),
        _ => humantime::format_duration(Duration::from_secs(seconds.round() as u64)).to_string(),
    }
}

pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// `2026-01-02 03:04:05 UTC`
pub fn date(seconds: u64) -> String {
    // Years of four digits are all that can be written.
    let since = Duration::from_secs(seconds.min(253_402_300_799));
    let text = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}
