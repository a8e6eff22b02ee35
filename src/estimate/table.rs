//! Estimates as a person reads them.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::StageEstimate;
use super::advice::Change;
use super::comparison::seconds;
use super::disk::Lasts;
use super::fit::{Limit, disk_refusal, refusal};
use super::serving::Serving;

/// What the whole plan comes to.
pub struct Verdict<'a> {
    pub device: String,
    pub is_measured: bool,
    /// Whether it is known how fast the device is.
    pub has_rates: bool,
    /// Of a device's numbers.
    pub source: Option<&'static str>,
    pub memory: Option<Limit>,
    /// Needed and free.
    pub disk: (u64, Option<u64>),
    pub too_large: &'a [usize],
    pub changes: &'a [Change],
}

/// Some lines a stage, a line a model, and what it comes to.
pub fn table(stages: &[StageEstimate], models: &[Serving], verdict: &Verdict) -> String {
    let mut text = String::new();
    for stage in stages {
        let name = (stage.name.as_ref()).map_or_else(String::new, |name| format!(" → {name}"));
        let done = match stage.done {
            Some(true) => ": done before",
            _ => "",
        };
        let place = format!("[{}/{}]", stage.stage, stages.len());
        let _ = writeln!(text, "{place} {}{name}{done}", stage.kind);
        for (what, says) in lines(stage) {
            let _ = writeln!(text, "      {what:11} {says}");
        }
    }
    if !models.is_empty() {
        let _ = writeln!(text, "\nmodels, answering");
    }
    for model in models {
        let [wide, half, byte, four] = model.weight_bytes.map(BinaryBytes);
        let _ = writeln!(
            text,
            "      {:11} {} parameters: {wide}, {half}, {byte}, {four} in 32, 16, 8, 4 bits",
            model.model,
            HumanCount(model.parameters)
        );
        let mut cache = format!(
            "KV cache {} a token, {} for {}",
            BinaryBytes(model.kv_bytes_a_token),
            BinaryBytes(model.kv_bytes_a_sequence),
            HumanCount(model.context as u64)
        );
        if let Some(batch) = model.largest_batch {
            let things = if batch == 1 {
                "sequence fits"
            } else {
                "sequences fit"
            };
            let _ = write!(cache, "; {} such {things}", HumanCount(batch));
        }
        if let (Some(batch), Some(plain)) = (model.decode_batch, model.decode_batch_of_textbooks) {
            let _ = write!(
                cache,
                "; decoding computes as long as it reads with {:.0} sequences ({:.0} by FLOP/s ÷ 2·bytes/s)",
                batch.floor(),
                plain.floor()
            );
        }
        let _ = writeln!(text, "      {:11} {cache}", "");
    }
    text += "\n";
    conclude(&mut text, stages, verdict);
    text
}

/// What is said of a stage, by what it is about.
fn lines(stage: &StageEstimate) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let (Some(all), Some(trained)) = (stage.parameters, stage.trainable) {
        let says = match all == trained {
            true => format!("{}, all of them trained", HumanCount(all)),
            // Those of an adapter come beside them.
            false => format!(
                "{}, and {} of an adapter are trained",
                HumanCount(all),
                HumanCount(trained)
            ),
        };
        lines.push(("parameters", says));
    }
    if let Some(memory) = &stage.memory {
        let parts: Vec<String> = (memory.parts.iter())
            .filter(|share| share.bytes >= memory.total / 200)
            .map(|share| format!("{} {}", share.part.described(), BinaryBytes(share.bytes)))
            .collect();
        let total = BinaryBytes(memory.total);
        lines.push(("memory", format!("{total}: {}", parts.join(", "))));
        if let (Some(with), Some(without)) = (
            stage.memory_with_checkpointing,
            stage.memory_without_checkpointing,
        ) {
            let (with, without) = (BinaryBytes(with), BinaryBytes(without));
            let says = format!("{without} with whole tapes, {with} with `checkpoint_blocks`");
            lines.push(("", says));
        }
    }
    if let Some(whole) = stage.seconds {
        let mut says = seconds(whole);
        if let (Some(step), Some(steps)) = (stage.step_seconds, stage.steps) {
            let things = if steps == 1 { "step" } else { "steps" };
            let _ = write!(
                says,
                ": {} {things} of {}",
                HumanCount(steps),
                seconds(step)
            );
        }
        lines.push(("time", says));
    } else if let Some(step) = stage.step_seconds {
        lines.push(("time", format!("{} a step", seconds(step))));
    }
    if !stage.disk.is_empty() {
        let files: Vec<String> = (stage.disk.iter())
            .map(|files| match files.lasts {
                Lasts::Run => format!("{} {}", files.what, BinaryBytes(files.bytes)),
                Lasts::Stage | Lasts::Moment => {
                    format!("{} {} meanwhile", files.what, BinaryBytes(files.bytes))
                }
            })
            .collect();
        lines.push(("disk", files.join(", ")));
    }
    if let Some(asked) = stage.requests {
        let mut says = format!(
            "{} at most, {} tokens read, {} written if every answer is as long as it may be",
            HumanCount(asked.requests),
            HumanCount(asked.input_tokens),
            HumanCount(asked.output_tokens)
        );
        if let Some(dollars) = asked.dollars {
            let _ = match dollars > 0.0 && dollars < 0.005 {
                true => write!(says, ", less than $0.01"),
                false => write!(says, ", ${dollars:.2}"),
            };
        }
        if let Some(least) = asked.at_least_seconds {
            let _ = write!(says, "; {} at least at the server's pace", seconds(least));
        }
        lines.push(("requests", says));
    }
    lines.extend(stage.notes.iter().map(|note| ("note", note.clone())));
    lines
}

fn conclude(text: &mut String, stages: &[StageEstimate], verdict: &Verdict) {
    let to_run = || stages.iter().filter(|stage| stage.done != Some(true));
    let memory = to_run().filter_map(|stage| Some(stage.memory.as_ref()?.total));
    let all = to_run().count();
    let of_stages = |counted: usize| match counted < all {
        true => format!(" for {counted} of {all} stages"),
        false => String::new(),
    };
    let device = &verdict.device;
    let source = verdict
        .source
        .map_or_else(String::new, |source| format!(" ({source})"));
    let _ = writeln!(text, "device    {device}{source}");
    if !verdict.is_measured {
        let _ = writeln!(
            text,
            "          follows from the code; it was not measured on a GPU"
        );
    }
    let of = |free: Option<u64>| {
        free.map_or_else(String::new, |free| format!(" of {}", BinaryBytes(free)))
    };
    if let Some(most) = memory.clone().max() {
        let _ = writeln!(
            text,
            "memory    {}{}{}",
            BinaryBytes(most),
            of(verdict.memory.map(Limit::bytes)),
            of_stages(memory.count())
        );
    }
    let (disk, free) = verdict.disk;
    if disk > 0 {
        let _ = writeln!(text, "disk      {}{}", BinaryBytes(disk), of(free));
    }
    let known = to_run().filter_map(|stage| stage.seconds);
    let counted = known.clone().count();
    match (verdict.has_rates, counted > 0) {
        (_, true) => {
            let sum = seconds(known.sum());
            let _ = writeln!(text, "time      {sum}{}", of_stages(counted));
        }
        (false, false) if all > 0 => {
            text.push_str("time      not known: nothing was measured on this device yet\n");
        }
        _ => {}
    }
    if let (Some(limit), [_, ..]) = (verdict.memory, verdict.too_large) {
        let says = refusal(stages, verdict.too_large, limit, verdict.changes);
        let _ = writeln!(text, "\ndoes not fit: {says}");
    }
    if let Some(says) = free.and_then(|free| disk_refusal(stages, free)) {
        let _ = writeln!(text, "\ndoes not fit: {says}");
    }
}
