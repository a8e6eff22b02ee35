//! Verdicts of a judge over two answers, and what they amount to.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::in_order::Dropped;
use super::json_in_text::{objects, value};
use super::patterns::fixed;
use super::spoken::without_thoughts;

/// What is said of two answers by the places in which they were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    First,
    Second,
    Tie,
}

/// A verdict with its reasons, out of JSON, `[[A]]` or a line such as `Verdict: A`; and A is the answer shown first.
///
/// # Errors
/// A text without a verdict, or with several that differ.
pub fn read_verdict(text: &str) -> Result<(Verdict, String), (Dropped, String)> {
    const NAMES: [&str; 4] = ["winner", "verdict", "better", "choice"];
    let text = without_thoughts(text);
    let (mut found, mut rationale) = (Vec::new(), text.trim().to_owned());
    let mut is_named = false;
    for object in &objects(text) {
        let said = value(object, &NAMES);
        is_named |= said.is_some();
        found.extend(said.and_then(Value::as_str).and_then(verdict));
        if let Some(Value::String(words)) = value(object, &["rationale", "reason", "explanation"]) {
            rationale = words.clone();
        }
    }
    for pattern in [&*BRACKETS, &*LINE, &*ALONE] {
        if found.is_empty() && !is_named {
            found.extend(
                pattern
                    .captures_iter(text)
                    .filter_map(|part| verdict(&part[1])),
            );
        }
    }
    found.dedup();
    match found.as_slice() {
        [verdict] => Ok((*verdict, rationale)),
        [] => Err((Dropped::NoVerdict, "no verdict is said".to_owned())),
        several => {
            let count = several.len();
            Err((Dropped::NoVerdict, format!("{count} verdicts are said")))
        }
    }
}

/// `A`, `Answer B`, `tie`, `C`.
fn verdict(said: &str) -> Option<Verdict> {
    let said = said.to_lowercase();
    let mut words = said.split(|c: char| !c.is_alphanumeric()).filter(|word| {
        ![
            "",
            "answer",
            "assistant",
            "response",
            "the",
            "is",
            "better",
            "a_tie",
        ]
        .contains(word)
    });
    let (word, none) = (words.next()?, words.next().is_none());
    match word {
        "a" if none => Some(Verdict::First),
        "b" if none => Some(Verdict::Second),
        "tie" | "c" | "draw" | "equal" | "neither" | "both" if none => Some(Verdict::Tie),
        _ => None,
    }
}

static BRACKETS: LazyLock<Regex> = LazyLock::new(|| fixed(r"\[\[\s*([ABCabc]|[Tt]ie)\s*\]\]"));
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"(?im)^[\s>#*_\-]*(?:the\s+)?(?:final\s+)?(?:winner|verdict|choice|better(?:\s+answer)?)[*_]*\s*[:=][\s*_]*([^\r\n]{1,30}?)[\s*_.]*$",
    )
});
static ALONE: LazyLock<Regex> = LazyLock::new(|| fixed(r#"(?i)^[\s*"'`]*([ABC]|tie)[\s*"'`.]*$"#));

/// Which of two answers is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    A,
    B,
    Tie,
}

impl Winner {
    /// The answers behind the places, `a_first` or not.
    pub fn of(verdict: Verdict, a_first: bool) -> Self {
        match (verdict, a_first) {
            (Verdict::Tie, _) => Self::Tie,
            (Verdict::First, true) | (Verdict::Second, false) => Self::A,
            (Verdict::First, false) | (Verdict::Second, true) => Self::B,
        }
    }
}

/// Sums over the prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCounts {
    /// Of `a`.
    pub wins: u64,
    pub losses: u64,
    /// Both orders say so.
    pub ties: u64,
    /// The orders disagree: ties, too.
    pub inconsistent: u64,
    /// The same answer twice, which nobody has to judge: ties, too.
    pub equal: u64,
    /// Verdicts for one of two answers, and those of them for the answer shown first.
    pub decided: u64,
    pub for_first: u64,
    /// Prompts that could not be judged, and those that only one of the two data has.
    pub dropped: u64,
    pub unmatched: u64,
}

impl VerdictCounts {
    pub fn judged(&self) -> u64 {
        self.wins + self.losses + self.ties + self.inconsistent + self.equal
    }

    /// How often `a` wins, a tie being half a win, and the standard error of that mean.
    pub fn win_rate(&self) -> (f64, f64) {
        let (n, wins, losses) = (self.judged() as f64, self.wins as f64, self.losses as f64);
        let rate = (wins + (n - wins - losses) / 2.0) / n;
        let squares = wins + (n - wins - losses) / 4.0;
        let variance = (squares - n * rate * rate) / (n - 1.0);
        (rate, (variance.max(0.0) / n).sqrt())
    }

    /// The share of the first place, 0.5 of a judge that heeds it not; None where nothing was decided.
    pub fn position_bias(&self) -> Option<f64> {
        (self.decided > 0).then(|| self.for_first as f64 / self.decided as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_however_they_are_written() {
        use Verdict::{First, Second, Tie};
        for (text, expected) in [
            (r#"{"rationale": "r", "winner": "A"}"#, First),
            (r#"{"Verdict": "Answer B"}"#, Second),
            ("So: ```json\n{\"winner\": \"tie\"}\n```", Tie),
            ("A is [better] because … [[A]]", First),
            ("My verdict: [[C]]", Tie),
            ("I like it.\n**Verdict:** B.", Second),
            ("Final verdict: Assistant A is better", First),
            ("Winner = tie", Tie),
            ("B", Second),
            (" \"a\".", First),
            ("<think>Winner: A</think>Winner: B", Second),
            ("[[A]] as I said: [[A]]", First),
            ("A returns `{}`, B {\"a\": 1}.\nVerdict: A", First),
            (r#"{"a": {}} [[B]]"#, Second),
            (r#"{"winner": "A", "Winner": "A"}"#, First),
        ] {
            assert_eq!(
                read_verdict(text).map(|found| found.0),
                Ok(expected),
                "{text}"
            );
        }
        let (_, why) = read_verdict(r#"{"rationale": "short", "winner": "A"}"#).unwrap();
        assert_eq!(why, "short");
    }

    #[test]
    fn what_is_not_plainly_said_is_no_verdict() {
        for text in [
            "",
            "Both have merits.",
            "Answer A is better.",
            r#"{"winner": "A or B"}"#,
            r#"{"winner": null}"#,
            r#"{"winner": "A"} {"winner": "B"}"#,
            r#"{"winner": "A", "winner": "B"}"#,
            r#"{"winner": "A", "Winner": "B"} [[B]]"#,
            r#"{"winner": null} [[B]]"#,
            "[[A]] or [[B]]",
            "Winner: A\nWinner: B",
            "Winner: not A",
            "A B",
            r#"{"winner": "D"}"#,
        ] {
            let found = read_verdict(text).map_err(|(why, _)| why);
            assert_eq!(
                found.map(|found| found.0),
                Err(Dropped::NoVerdict),
                "{text}"
            );
        }
    }

    #[test]
    fn rates_are_means_of_wins_and_half_ties() {
        let counts = VerdictCounts {
            wins: 5,
            losses: 2,
            ties: 1,
            inconsistent: 1,
            equal: 1,
            decided: 16,
            for_first: 10,
            ..VerdictCounts::default()
        };
        // numpy: x = [1]*5 + [0]*2 + [.5]*3; x.mean(), x.std(ddof=1) / sqrt(10)
        let (rate, error) = counts.win_rate();
        assert!((rate - 0.65).abs() < 1e-12);
        assert!((error - 0.130_170_827_931_777_56).abs() < 1e-12, "{error}");
        assert_eq!(counts.position_bias(), Some(0.625));
        assert_eq!(VerdictCounts::default().position_bias(), None);
        assert_eq!(Winner::of(Verdict::First, false), Winner::B);
        assert_eq!(Winner::of(Verdict::Second, false), Winner::A);
    }
}
