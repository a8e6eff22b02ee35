//! How much data a stage makes, at most: where all answers are as long as they may be, and nothing is sifted out.

use std::iter::repeat_n;

use datasets::token_estimate::estimated_tokens;

use super::data_facts::{DataFacts, SampleSize};
use super::known::{Facts, Known};
use super::requests::{TOKENS_PER_WORD, prompt_tokens};
use crate::recipe::{Action, Generate, Keep, Mode, Recipe};

/// Samples whose sizes are kept one by one.
const SIZES_AT_MOST: usize = 1 << 12;

/// What stage `maker` leaves, read as pairs or as samples.
///
/// # Errors
/// A stage that makes something else, or of which that is not known before.
pub fn made_data(recipe: &Recipe, facts: &Facts, maker: usize, pairs: bool) -> Known<DataFacts> {
    let made = match &recipe.stages[maker].action {
        Action::Generate(generate) => written(generate, &facts.data(maker, "prompts")?)?,
        Action::Exercises(exercises) => {
            let topics = facts.data(maker, "topics")?.records()?;
            let text = SampleSize {
                splittable: true,
                ..talk(0.0, f64::from(exercises.sampling.max_tokens), 0)
            };
            let samples = topics.saturating_mul(u64::from(exercises.candidates));
            DataFacts::of_sizes([text], samples, false)
        }
        Action::Rate(rate) => {
            // Of each prompt the longest that may be its best.
            let answers = (0..rate.answers.len())
                .map(|number| facts.data(maker, &format!("answers.{number}")))
                .collect::<Known<Vec<_>>>()?;
            let candidates = |data: &DataFacts| data.candidates.max(1);
            let prompts = answers.iter().map(|data| {
                let records = data.records();
                records.map(|records| records / candidates(data) as u64)
            });
            let prompts = prompts.collect::<Known<Vec<_>>>()?;
            let longest =
                (answers.iter()).max_by(|a, b| a.tokens_each().total_cmp(&b.tokens_each()));
            let longest = longest.ok_or("`answers` names nothing")?;
            let firsts = longest.sizes.iter().step_by(candidates(longest));
            let sides = match rate.keep {
                Keep::Pairs => 2,
                Keep::Best => 1,
            };
            let sizes = firsts.flat_map(|size| repeat_n(*size, sides));
            let sizes: Vec<SampleSize> = sizes.collect();
            let most = prompts.into_iter().max().unwrap_or(0);
            DataFacts::of_sizes(sizes, most, sides == 2)
        }
        Action::Filter(_)
        | Action::Dedup(_)
        | Action::Decontaminate(_)
        | Action::CodeQuality(_) => facts.data_as(maker, "data", pairs)?,
        _ => {
            return Err(format!(
                "stage {} makes its data: how much that is, is not known before",
                maker + 1
            ));
        }
    };
    Ok(DataFacts {
        at_most: true,
        ..made
    })
}

fn talk(read: f64, learned: f64, turns: usize) -> SampleSize {
    SampleSize {
        read,
        learned,
        turns,
        ..SampleSize::default()
    }
}

/// What a teacher makes of prompts.
fn written(generate: &Generate, prompts: &DataFacts) -> Known<DataFacts> {
    let new = f64::from(generate.sampling.max_tokens);
    let some = prompts.some_sizes(SIZES_AT_MOST, f64::INFINITY);
    let asked: Vec<f64> = match some.is_empty() {
        true => vec![prompts.tokens_each()],
        false => some.iter().map(SampleSize::prompt).collect(),
    };
    let (sizes, each): (Vec<SampleSize>, u64) = match &generate.mode {
        Mode::Answer => {
            let turns = generate.turns as usize;
            let system = generate.system.as_deref().map(estimated_tokens);
            let around = prompt_tokens(generate.prompt.as_ref()) + system.unwrap_or(0.0);
            // What the user says between is as long as an answer may be.
            let between = turns.saturating_sub(1) as f64 * new;
            let of_prompt = |prompt: f64| {
                let all = 2 * turns + usize::from(system.is_some());
                SampleSize {
                    between,
                    ..talk(around + prompt, turns as f64 * new, all)
                }
            };
            let candidates = generate.candidates as usize;
            let talks = asked.into_iter().map(of_prompt);
            let talks = talks.flat_map(|talk| repeat_n(talk, candidates));
            (talks.take(SIZES_AT_MOST).collect(), candidates as u64)
        }
        Mode::SelfInstruct(mode) => {
            let made = talk(mode.max_words as f64 * TOKENS_PER_WORD, 0.0, 1);
            return Ok(DataFacts::of_sizes([made], mode.instructions as u64, false));
        }
        // Each prompt, and what each round makes of it.
        Mode::EvolInstruct(mode) => {
            let of_prompt = |prompt: f64| {
                let evolved = repeat_n(talk(prompt.max(new), 0.0, 1), mode.rounds);
                [talk(prompt, 0.0, 1)].into_iter().chain(evolved)
            };
            let made = asked.into_iter().flat_map(of_prompt);
            (made.take(SIZES_AT_MOST).collect(), mode.rounds as u64 + 1)
        }
    };
    let samples = prompts.records()?.saturating_mul(each);
    Ok(DataFacts {
        candidates: each as usize,
        ..DataFacts::of_sizes(sizes, samples, false)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::Cache;

    fn of(stages: &str) -> Vec<Known<DataFacts>> {
        let text = format!(
            r#"
[models.server]
source = {{ kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"] }}
[data.four]
source = "recipes/data/questions.txt"
chunk = "lines"
limit = 4
{stages}"#
        );
        let recipe = Recipe::parse(Path::new("r.toml"), &text, None, &[]).unwrap();
        let facts = Facts::new(&recipe, &Cache::at("not-there".into()), false);
        let stages = 0..recipe.stages.len();
        stages
            .map(|stage| made_data(&recipe, &facts, stage, false))
            .collect()
    }

    const ANSWERS: &str = r#"
[[stage]]
kind = "generate"
teacher = "server"
prompts = "four"
candidates = 3
sampling = { temperature = 1.0, max_tokens = 32 }
as = "answers"
"#;

    #[test]
    fn answers_are_as_long_as_they_may_be_and_a_sieve_leaves_no_more_than_it_gets() {
        let sieve = r#"
[[stage]]
kind = "dedup"
data = "answers"
method = { kind = "exact" }
as = "kept"
"#;
        let made = of(&format!("{ANSWERS}{sieve}"));
        let answers = made[0].as_ref().unwrap();
        assert_eq!(answers.samples, Some(12));
        assert_eq!(answers.learned_tokens, Some(12.0 * 32.0));
        assert!(answers.at_most && answers.tokens() > 12 * 36);
        assert_eq!(made[1].as_ref().unwrap(), answers);
    }

    #[test]
    fn ratings_leave_a_pair_or_an_answer_of_each_prompt() {
        let longer = ANSWERS.replace("32", "64").replace("answers", "longer");
        let rate = |keep: &str| {
            let stage = "[[stage]]\nkind = \"rate\"\nteacher = \"server\"\nanswers = [\"answers\", \"longer\"]";
            let made = of(&format!("{ANSWERS}{longer}{stage}\n{keep}\nas = \"rated\""));
            made[2].clone().unwrap()
        };
        let pairs = rate("");
        assert_eq!(
            (pairs.samples, pairs.sizes.len(), pairs.pairs),
            (Some(4), 8, true)
        );
        assert_eq!(pairs.learned_tokens, Some(8.0 * 64.0));
        let best = rate("keep = \"best\"");
        assert_eq!(
            (best.samples, best.sizes.len(), best.pairs),
            (Some(4), 4, false)
        );
    }

    #[test]
    fn instructions_are_as_many_as_are_wanted_or_as_rounds_make() {
        let mode = |mode: &str| {
            let made = of(&ANSWERS.replace("candidates = 3", &format!("mode = {{ {mode} }}")));
            made[0].clone().unwrap()
        };
        let own = mode(
            "kind = \"self_instruct\", instructions = 40, max_words = 30, prompt = \"recipes/prompts/self_instruct.jinja\"",
        );
        assert_eq!((own.samples, own.tokens()), (Some(40), 1600));
        let evolved = mode(
            "kind = \"evol_instruct\", rounds = 2, depth = \"recipes/prompts/evol_depth.jinja\", breadth = \"recipes/prompts/evol_breadth.jinja\"",
        );
        assert_eq!(
            (evolved.samples, evolved.learned_tokens),
            (Some(12), Some(0.0))
        );
    }
}
