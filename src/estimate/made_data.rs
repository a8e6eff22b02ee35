//! How much data a stage makes, at most: where all answers are as long as they may be, and nothing is sifted out.

use std::iter::repeat_n;

use datasets::token_estimate::estimated_tokens;

use super::data_facts::{DataFacts, SampleSize};
use super::known::{Facts, Known};
use super::requests::prompt_tokens;
use crate::recipe::{Action, Generate, Mode, Recipe};

/// What stage `maker` leaves.
///
/// # Errors
/// A stage that makes something else, or of which that is not known before.
pub fn made_data(recipe: &Recipe, facts: &Facts, maker: usize) -> Known<DataFacts> {
    match &recipe.stages[maker].action {
        Action::Generate(generate) if generate.mode == Mode::Answer => {
            Ok(answered(generate, &facts.data(maker, "prompts")?))
        }
        Action::Filter(_) | Action::Dedup(_) | Action::Decontaminate(_) => Ok(DataFacts {
            at_most: true,
            ..facts.data(maker, "data")?
        }),
        _ => Err(format!(
            "stage {} makes its data: how much that is, is not known before",
            maker + 1
        )),
    }
}

/// A conversation a prompt and candidate.
fn answered(generate: &Generate, prompts: &DataFacts) -> DataFacts {
    let (turns, candidates) = (generate.turns as usize, generate.candidates as usize);
    let new = f64::from(generate.sampling.max_tokens);
    let system = generate.system.as_deref().map(estimated_tokens);
    let around = prompt_tokens(generate.prompt.as_ref()) + system.unwrap_or(0.0);
    let talk = |prompt: f64| SampleSize {
        read: around + prompt + turns.saturating_sub(1) as f64 * new,
        learned: turns as f64 * new,
        turns: 2 * turns + usize::from(system.is_some()),
        splittable: false,
    };
    let sizes = prompts.sizes.iter().map(|size| match size.splittable {
        true => talk(size.tokens()),
        false => talk(size.read),
    });
    let talks = prompts
        .samples
        .map(|samples| samples.saturating_mul(candidates as u64));
    let each = talk(prompts.tokens_each());
    let of_all = |tokens: f64| talks.map(|talks| talks as f64 * tokens);
    DataFacts {
        bytes: 0,
        samples: talks,
        text_tokens: of_all(each.tokens()),
        learned_tokens: of_all(each.learned),
        sizes: sizes.flat_map(|size| repeat_n(size, candidates)).collect(),
        pairs: false,
        at_most: true,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::Cache;

    #[test]
    fn answers_are_as_long_as_they_may_be_and_a_sieve_leaves_no_more_than_it_gets() {
        let text = r#"
[models.server]
source = { kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"] }
[data.four]
source = "recipes/data/questions.txt"
chunk = "lines"
limit = 4
[[stage]]
kind = "generate"
teacher = "server"
prompts = "four"
candidates = 3
sampling = { temperature = 1.0, max_tokens = 32 }
as = "answers"
[[stage]]
kind = "dedup"
data = "answers"
method = { kind = "exact" }
as = "kept"
[[stage]]
kind = "judge"
teacher = "server"
a = "kept"
b = "answers"
as = "judged"
"#;
        let recipe = Recipe::parse(Path::new("r.toml"), text, None, &[]).unwrap();
        let facts = Facts::new(&recipe, &Cache::at("not-there".into()), false);
        let prompts = facts.data(0, "prompts").unwrap();
        let answers = facts.data(1, "data").unwrap();
        assert_eq!((prompts.samples, answers.samples), (Some(4), Some(12)));
        assert_eq!(answers.learned_tokens, Some(12.0 * 32.0));
        let asked = answers.tokens() - 12 * 32;
        assert!(asked.abs_diff(3 * prompts.tokens()) < 4, "{asked}");
        assert_eq!(facts.data(2, "a").unwrap(), answers);
    }
}
