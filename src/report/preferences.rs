//! Tables of what a judge thinks of answers, and of what a model has learned of it.

use std::fmt::Write;

use teacher::synth::pairs::RatingCounts;
use teacher::synth::verdict::VerdictCounts;

use crate::recipe::{Judge, Keep};
use crate::stages::{Chain, PairScores};

/// What became of the prompts of a stage `rate`, and whose answers were rated how.
pub fn rated(keep: Keep, counts: &RatingCounts, chain: &Chain) -> String {
    let kept = match keep {
        Keep::Pairs => "pairs",
        Keep::Best => "best answers",
    };
    let mut text = format!(
        "rate: {} of {} answers to {} prompts\n",
        counts.rated, counts.answers, counts.groups
    );
    let rows = rated_rows(kept, counts);
    let wide = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let _ = writeln!(text, "{:wide$}  {:>10}  {:>7}", "prompts", "count", "share");
    for (what, count) in rows {
        let share = 100.0 * count as f64 / counts.groups.max(1) as f64;
        let _ = writeln!(text, "{what:wide$}  {count:>10}  {share:>5.1} %");
    }
    let models: Vec<_> = (counts.models.iter())
        .map(|(model, score)| (called(model, chain), score))
        .collect();
    let wide = models
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0)
        .max(12);
    let _ = writeln!(
        text,
        "{:wide$}  {:>10}  {:>10}",
        "answers of", "rated", "mean score"
    );
    for (name, score) in models {
        let _ = writeln!(
            text,
            "{name:wide$}  {:>10}  {:>10.3}",
            score.rated,
            score.mean()
        );
    }
    text
}

/// Why prompts were dropped, and how many were not.
pub fn rated_rows(kept: &str, counts: &RatingCounts) -> Vec<(String, u64)> {
    let dropped = counts.dropped.iter();
    let dropped = dropped.map(|(why, count)| (why.describe().to_string(), *count as u64));
    let kept = (kept.to_string(), counts.kept as u64);
    dropped.chain([kept]).collect()
}

/// Who wins a stage `judge`.
pub fn judged(config: &Judge, counts: &VerdictCounts) -> String {
    let (a, b) = (&config.a, &config.b);
    let mut text = format!("judge: {a} against {b}\n");
    let rows = verdict_rows(a, b, counts);
    let wide = rows.iter().map(|(what, _)| what.chars().count()).max();
    let wide = wide.unwrap_or(0);
    let _ = writeln!(text, "{:wide$}  {:>10}", "verdict", "prompts");
    for (what, count) in rows {
        let _ = writeln!(text, "{what:wide$}  {count:>10}");
    }
    let (rate, error) = counts.win_rate();
    let error = match counts.judged() {
        0 | 1 => String::new(),
        _ => format!(" (std error {:.1})", 100.0 * error),
    };
    let _ = writeln!(
        text,
        "win rate of {a}: {:.1} %{error}, ties count half",
        100.0 * rate
    );
    if let Some(bias) = counts.position_bias() {
        let _ = writeln!(
            text,
            "position bias: {:.1} % of {} verdicts are for the answer shown first",
            100.0 * bias,
            counts.decided
        );
    }
    text
}

/// How many prompts met which verdict; rare ones only where there are some.
pub fn verdict_rows(a: &str, b: &str, counts: &VerdictCounts) -> Vec<(String, u64)> {
    let always = [
        (format!("{a} wins"), counts.wins),
        (format!("{b} wins"), counts.losses),
        ("ties".to_owned(), counts.ties),
        ("inconsistent, so ties".to_owned(), counts.inconsistent),
    ];
    let rare = [
        ("equal answers, so ties".to_owned(), counts.equal),
        ("not judged".to_owned(), counts.dropped),
        ("without a counterpart".to_owned(), counts.unmatched),
    ];
    let rare = rare.into_iter().filter(|(_, count)| *count > 0);
    always.into_iter().chain(rare).collect()
}

/// A model as the recipe calls it, where its digest says which one it is.
fn called(model: &str, chain: &Chain) -> String {
    let Some(digest) = model.strip_prefix("sha256:") else {
        return match model {
            "" => "(not said)".to_owned(),
            named => named.to_owned(),
        };
    };
    let mut inputs = chain.stages.iter().flat_map(|stage| &stage.inputs);
    match inputs.find(|input| input.digest.to_string() == digest) {
        Some(known) => known.input.reference.name.clone(),
        None => model.chars().take("sha256:".len() + 12).collect(),
    }
}

/// What a stage `dpo` measured on held-out pairs.
pub fn learned(scores: &PairScores) -> String {
    let mut text = format!(
        "preferences of {} on {} pairs of {}\n{:14}  {:>8}  {:>8}  {:>8}\n",
        scores.name, scores.pairs, scores.data, "", "loss", "accuracy", "margin"
    );
    for (when, score) in [("before", &scores.before), ("after", &scores.after)] {
        let _ = writeln!(
            text,
            "{when:14}  {:>8.4}  {:>8.3}  {:>8.4}",
            score.loss, score.accuracy, score.margin
        );
    }
    text
}
