//! Tables of scores.

use evals::accuracy::Accuracy;
use evals::human_eval::HumanEval;
use evals::multiple_choice::ChoiceScores;
use evals::perplexity::Perplexity;
use evals::written_answers::AnswerScores;

use crate::stages::{Measured, Score, Scores};

/// One row a model.
pub fn table(scores: &Scores) -> String {
    let names = scores.rows.iter().map(|row| row.model.chars().count());
    let wide = names.max().unwrap_or(0).max(5);
    let target = scores.target.iter();
    let target: String = target.map(|name| format!(", drafts for {name}")).collect();
    let mut text = format!(
        "{} on {}{target}\n{:wide$}  {:>10}",
        scores.task, scores.data, "model", "parameters"
    );
    for (name, width) in scores
        .rows
        .first()
        .map_or_else(Vec::new, |row| columns(&row.measured))
    {
        text += &format!("  {name:>width$}");
    }
    text += "\n";
    for row in &scores.rows {
        text += &format!(
            "{:wide$}  {:>10}",
            row.model,
            row.parameters.map_or("-".into(), millions)
        );
        let heads = columns(&row.measured).into_iter();
        for ((_, width), value) in heads.zip(values(&row.measured)) {
            text += &format!("  {value:>width$}");
        }
        text += "\n";
    }
    let mut remarks: Vec<String> = scores.rows.iter().flat_map(measured_remarks).collect();
    // What is true of the data is said once, not of each model.
    remarks.dedup();
    for remark in remarks {
        text += &remark;
        text += "\n";
    }
    text
}

/// What a reader of a row has to know, line by line.
pub fn measured_remarks(row: &Score) -> Vec<String> {
    let text = match &row.measured {
        Measured::Choices(found) => remarks(&row.model, found),
        Measured::HumanEval(found) => format!("{}: {}", row.model, fates(found)),
        Measured::Answers(found) => unfinished(&row.model, found),
        _ => String::new(),
    };
    text.lines().map(str::to_string).collect()
}

pub fn columns(measured: &Measured) -> Vec<(String, usize)> {
    match measured {
        Measured::Perplexity(_) => [
            ("nll/token", 10),
            ("(std error)", 11),
            ("perplexity", 10),
            ("bits per byte", 13),
        ]
        .map(|(name, width)| (name.to_string(), width))
        .to_vec(),
        Measured::Acceptance(_) => [
            ("accepted/round", 14),
            ("accepted", 8),
            ("rounds", 6),
            ("tokens", 6),
        ]
        .map(|(name, width)| (name.to_string(), width))
        .to_vec(),
        Measured::HumanEval(found) => {
            let mut heads = vec![("tasks".to_string(), 7), ("samples".to_string(), 7)];
            let shares = found
                .pass_at
                .iter()
                .map(|pass| (format!("pass@{}", pass.k), 8));
            heads.extend(shares.chain([("(std error)".to_string(), 11)]));
            heads
        }
        Measured::Answers(_) => [
            ("questions", 9),
            ("strict", 8),
            ("(std error)", 11),
            ("flexible", 8),
            ("(std error)", 11),
        ]
        .map(|(name, width)| (name.to_string(), width))
        .to_vec(),
        Measured::Choices(found) => {
            let mut heads = vec!["questions", "accuracy", "(std error)"];
            if found.normalised.is_some() {
                heads.extend(["a character", "(std error)"]);
            }
            heads.extend(found.categories.iter().map(|(name, _)| name.as_str()));
            let width = |name: &str| name.chars().count().max(8);
            heads
                .into_iter()
                .map(|name| (name.to_string(), width(name)))
                .collect()
        }
    }
}

pub fn values(measured: &Measured) -> Vec<String> {
    match measured {
        Measured::Perplexity(score) => perplexity_values(score),
        Measured::Acceptance(score) => vec![
            format!("{:.3}", score.acceptance_length),
            percent(score.acceptance_rate),
            score.acceptance.rounds.to_string(),
            score.tokens.to_string(),
        ],
        Measured::HumanEval(found) => {
            let mut values = vec![found.tasks.to_string(), found.samples.to_string()];
            values.extend(found.pass_at.iter().map(|pass| percent(pass.estimate)));
            values.push(percent(found.standard_error));
            values
        }
        Measured::Answers(found) => {
            let mut values = vec![found.all.flexible.questions.to_string()];
            values.extend(share_and_error(&found.all.strict));
            values.extend(share_and_error(&found.all.flexible));
            values
        }
        Measured::Choices(found) => {
            let mut values = vec![found.accuracy.questions.to_string()];
            values.extend(share_and_error(&found.accuracy));
            values.extend(found.normalised.iter().flat_map(share_and_error));
            let of_category = found
                .categories
                .iter()
                .map(|(_, accuracy)| percent(accuracy.share()));
            values.extend(of_category);
            values
        }
    }
}

fn perplexity_values(score: &Perplexity) -> Vec<String> {
    vec![
        format!("{:.4}", score.nll),
        format!("{:.4}", score.standard_error),
        format!("{:.2}", score.perplexity),
        format!("{:.4}", score.bits_per_byte),
    ]
}

pub fn share_and_error(accuracy: &Accuracy) -> [String; 2] {
    let error = accuracy.standard_error();
    [percent(accuracy.share()), error.map_or("-".into(), percent)]
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// What a reader of the numbers has to know.
pub fn remarks(model: &str, found: &ChoiceScores) -> String {
    let mut text = String::new();
    if !found.few_examples.is_empty() {
        let subjects = found.few_examples.join(", ");
        text += &format!("fewer worked examples than asked for: {subjects}\n");
    }
    if found.cut > 0 {
        let cut = found.cut;
        text += &format!("{model}: {cut} prompts were cut from the left to fit the context\n");
    }
    text
}

/// How many answers broke off, if any did.
pub fn unfinished(model: &str, found: &AnswerScores) -> String {
    match found.unfinished {
        0 => String::new(),
        count => {
            format!("{model}: {count} answers end at `max_tokens`, or where the context does\n")
        }
    }
}

/// How many programs met which fate, the most frequent first.
pub fn fates(result: &HumanEval) -> String {
    let mut fates: Vec<(&String, &usize)> = result.verdicts.iter().collect();
    fates.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let each: Vec<String> = (fates.iter())
        .map(|(fate, count)| format!("{fate} {count}"))
        .collect();
    each.join(", ")
}

pub fn millions(parameters: u64) -> String {
    format!("{:.1} M", parameters as f64 / 1e6)
}
