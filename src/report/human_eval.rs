//! The table of `human_eval`.

use evals::human_eval::HumanEval;

use super::millions;
use crate::stages::HumanEvalScores;

/// A row a model, and below what became of the programs that did not pass.
pub(super) fn programs(scores: &HumanEvalScores) -> String {
    let mut text = format!("{} on {}\n", scores.task, scores.data);
    let widths = scores.rows.iter().map(|row| row.model.chars().count());
    let wide = widths.max().unwrap_or(0).max(5);
    let ks: Vec<usize> = (scores.rows.first())
        .map(|row| row.result.pass_at.iter().map(|pass| pass.k).collect())
        .unwrap_or_default();
    text += &format!(
        "{:wide$}  {:>10}  {:>7}  {:>7}",
        "model", "parameters", "tasks", "samples"
    );
    for k in &ks {
        text += &format!("  {:>8}", format!("pass@{k}"));
    }
    text += &format!("  {:>11}\n", "(std error)");
    for row in &scores.rows {
        let HumanEval { tasks, samples, .. } = row.result;
        let size = millions(row.parameters);
        text += &format!("{:wide$}  {size:>10}  {tasks:>7}  {samples:>7}", row.model);
        for pass in &row.result.pass_at {
            text += &format!("  {:>8.4}", pass.estimate);
        }
        text += &format!("  {:>11.4}\n", row.result.standard_error);
    }
    for row in &scores.rows {
        text += &format!("{:wide$}  {}\n", row.model, fates(&row.result));
    }
    text
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
