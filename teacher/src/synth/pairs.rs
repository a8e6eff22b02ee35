//! Pairs for preference training out of rated answers: the best against a random one that is worse (Zephyr, arXiv 2310.16944).

use std::collections::BTreeMap;

use datasets::random::Random;
use datasets::sample::Message;
use serde::{Deserialize, Serialize};

use super::rate::{Rating, RatingLineage};

/// A prompt with a better and a worse answer, as trainers of preferences read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    pub prompt: Vec<Message>,
    pub chosen: [Message; 1],
    pub rejected: [Message; 1],
    pub score_chosen: f64,
    pub score_rejected: f64,
    pub margin: f64,
    pub lineage: PairLineage,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairLineage {
    pub chosen: RatingLineage,
    pub rejected: RatingLineage,
}

/// A prompt with its best answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    pub messages: Vec<Message>,
    pub score: f64,
    pub lineage: RatingLineage,
}

/// Why a group makes no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unpaired {
    NotRated,
    OneAnswer,
    EqualScores,
}

impl Unpaired {
    pub fn describe(self) -> &'static str {
        match self {
            Self::NotRated => "no rated answer",
            Self::OneAnswer => "fewer than two rated answers that differ",
            Self::EqualScores => "equal scores",
        }
    }
}

/// The best answer of a group, the first of those with the highest mean.
pub fn best(group: &[Rating]) -> Option<&Rating> {
    group
        .iter()
        .reduce(|best, other| match other.mean > best.mean {
            true => other,
            false => best,
        })
}

/// The best answer of a group and one of the worse, drawn by seed and group.
///
/// # Errors
/// Why there are no two.
pub fn pair(group: &[Rating], seed: u64) -> Result<Pair, Unpaired> {
    let best = best(group).ok_or(Unpaired::NotRated)?;
    let mut others: Vec<&Rating> = Vec::new();
    for rating in group {
        let same = |other: &&Rating| other.answer.trim() == rating.answer.trim();
        if !same(&best) && !others.iter().any(same) {
            others.push(rating);
        }
    }
    if others.is_empty() {
        return Err(Unpaired::OneAnswer);
    }
    others.retain(|other| other.mean < best.mean);
    if others.is_empty() {
        return Err(Unpaired::EqualScores);
    }
    let mut random = Random::new(seed, "rate", best.group as u64, "rejected");
    let rejected = others[random.below(others.len() as u64) as usize];
    Ok(Pair {
        prompt: best.prompt.clone(),
        chosen: [Message::new("assistant", &best.answer)],
        rejected: [Message::new("assistant", &rejected.answer)],
        score_chosen: best.mean,
        score_rejected: rejected.mean,
        margin: best.mean - rejected.mean,
        lineage: PairLineage {
            chosen: best.lineage.clone(),
            rejected: rejected.lineage.clone(),
        },
    })
}

impl Best {
    pub fn of(rating: &Rating) -> Self {
        let mut messages = rating.prompt.clone();
        messages.push(Message::new("assistant", &rating.answer));
        Self {
            messages,
            score: rating.mean,
            lineage: rating.lineage.clone(),
        }
    }
}

/// What became of the prompts, and how each model's answers were rated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RatingCounts {
    /// Answers that were to be rated, and those that were.
    pub answers: usize,
    pub rated: usize,
    /// Prompts.
    pub groups: usize,
    /// Pairs, or best answers.
    pub kept: usize,
    pub dropped: BTreeMap<Unpaired, usize>,
    /// By the model that wrote the answers; "" where records do not say.
    pub models: BTreeMap<String, ModelScore>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {
    pub rated: usize,
    /// Sum over its answers.
    pub score: f64,
}

impl ModelScore {
    pub fn mean(&self) -> f64 {
        self.score / self.rated.max(1) as f64
    }
}

impl RatingCounts {
    pub fn count(&mut self, rating: &Rating) {
        self.rated += 1;
        let model = rating.model.clone().unwrap_or_default();
        let score = self.models.entry(model).or_default();
        score.rated += 1;
        score.score += rating.mean;
    }

    pub fn drop(&mut self, why: Unpaired) {
        *self.dropped.entry(why).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(number: usize, answers: &[(&str, f64)]) -> Vec<Rating> {
        let rating = |(at, (answer, mean)): (usize, &(&str, f64))| {
            let judgement =
                json!({ "model": "m", "prompt": "p", "parameters": {}, "requests": [] });
            serde_json::from_value(json!({
                "group": number, "prompt": [{ "role": "user", "content": "q" }], "answer": answer,
                "ratings": {}, "mean": mean, "model": null,
                "lineage": { "answer": { "data": 0, "record": at, "digest": "d" }, "judgement": judgement },
            }))
            .unwrap()
        };
        answers.iter().enumerate().map(rating).collect()
    }

    #[test]
    fn the_best_stands_against_one_that_is_worse() {
        let rated = group(
            0,
            &[("a", 2.0), ("b", 4.5), ("c", 4.5), ("d", 3.25), ("e", 4.5)],
        );
        let mut rejected = [0; 2];
        for seed in 0..200 {
            let pair = pair(&rated, seed).unwrap();
            assert_eq!(pair.chosen[0], Message::new("assistant", "b"));
            let at = match pair.rejected[0].content.as_str() {
                "a" => 0,
                "d" => 1,
                other => panic!("{other} is not worse"),
            };
            rejected[at] += 1;
            assert_eq!(pair.margin, 4.5 - [2.0, 3.25][at]);
            assert_eq!(pair.margin, pair.score_chosen - pair.score_rejected);
            assert_eq!(pair.lineage.rejected.answer.record, [0, 3][at]);
        }
        assert!(rejected.iter().all(|&count| count > 60), "{rejected:?}");
        assert_eq!(best(&rated).unwrap().answer, "b");
    }

    #[test]
    fn the_draw_follows_from_seed_and_group() {
        let answers = [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 5.0)];
        let drawn = |seed| -> Vec<String> {
            let of = |number| pair(&group(number, &answers), seed).unwrap();
            (0..20)
                .map(|number| of(number).rejected[0].content.clone())
                .collect()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let mut kinds = drawn(7);
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds, ["a", "b", "c"]);
    }

    #[test]
    fn some_groups_make_no_pair() {
        let why = |answers: &[(&str, f64)]| pair(&group(0, answers), 0).unwrap_err();
        assert_eq!(why(&[]), Unpaired::NotRated);
        assert_eq!(why(&[("a", 1.0)]), Unpaired::OneAnswer);
        assert_eq!(why(&[("a", 1.0), ("a ", 1.0)]), Unpaired::OneAnswer);
        assert_eq!(why(&[("a", 3.0), ("b", 3.0)]), Unpaired::EqualScores);
        assert_eq!(Best::of(&group(0, &[("a", 1.0)])[0]).messages.len(), 2);
    }
}
