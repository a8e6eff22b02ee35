//! What evaluations ask of a model: texts that it writes, choices and windows that it scores.

use evals::human_eval::read_tasks;
use evals::multiple_choice::{Asked as Questions, ChoiceTask};
use evals::text_size::TextSize;
use evals::written_answers::AskedProblems;

use super::data_facts::{DataFacts, size_of};
use super::known::{Facts, Known};
use super::requests::{Asked, RECORD_TOKENS, TEMPLATE_TOKENS};
use crate::recipe::{Action, Eval, Measure, Recipe, Windows};

/// Of a question, in the mean, about.
const CHOICES_OF_TRUTHFUL_QA: usize = 5;
/// Files of questions up to this size are read.
const QUESTIONS_AT_MOST: u64 = 16 << 20;
/// The window of `perplexity` where none is given.
const DEFAULT_WINDOW: usize = 2048;

/// What each model of an evaluation writes or scores; nothing of drafts, which models of this machine alone write.
///
/// # Errors
/// Records that are not known, and what would tell them.
pub fn asked(recipe: &Recipe, facts: &Facts, stage: usize, eval: &Eval) -> Known<Option<Asked>> {
    let asked = match (&eval.measure, facts.texts(stage)) {
        (Measure::Acceptance(_), _) => return Ok(None),
        (Measure::Perplexity(windows), _) => {
            let data = facts.data(stage, "data")?;
            windows_of(windows, lent_context(recipe, facts, eval), &data)?
        }
        (measure, Ok(size)) => {
            let longest = size.groups.iter().map(|group| group.longest);
            let new = match (measure, measure.answers()) {
                (Measure::HumanEval(config), _) => config.max_tokens,
                (_, Some((_, answers))) => answers.config().max_tokens,
                _ => 1,
            };
            Asked {
                texts: size.sequences,
                read: size.tokens,
                prompt: longest.fold(1.0, f64::max).ceil() as usize,
                shared: (size.groups.first()).map_or(0, |group| group.shared as usize),
                new: new as u64,
            }
        }
        _ => counted(eval, &facts.data(stage, "data")?)?,
    };
    Ok(Some(asked))
}

/// Reads the texts of questions with choices or with written answers, as [`Facts::texts`] has them.
pub fn texts(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<TextSize> {
    let not_read = || String::from("its texts are not read for a plan");
    let Action::Eval(eval) = &recipe.stages[stage].action else {
        return Err(not_read());
    };
    let seed = recipe.seed;
    let files = |key: &str| {
        let config = facts.files(stage, key)?;
        let bytes = size_of(&config.source).map_err(|error| error.to_string())?;
        match bytes > QUESTIONS_AT_MOST {
            true => Err(String::from(
                "the questions are too many to be read for a plan",
            )),
            false => Ok(config),
        }
    };
    let shots = eval.measure.shots_data().map(|_| "shots_data");
    if let Some((task, asked)) = eval.measure.choices() {
        let read = |key| Ok::<_, String>(task.questions(files(key)?).map_err(told)?.questions);
        let examples = shots.map_or(Ok(Vec::new()), read)?;
        let asked = Questions::new(task, read("data")?, &examples, &asked.config(seed));
        Ok(asked.map_err(told)?.size())
    } else if let Some((task, answers)) = eval.measure.answers() {
        let read = |key| task.problems(files(key)?).map_err(told);
        let examples = shots.map_or(Ok(Vec::new()), read)?;
        let asked = AskedProblems::new(task, read("data")?, &examples, &answers.config(), seed);
        Ok(asked.map_err(told)?.size())
    } else if let Measure::HumanEval(config) = &eval.measure {
        let tasks = read_tasks(files("data")?, config.limit).map_err(told)?;
        let prompts = tasks.iter().map(|task| task.prompt.as_str());
        Ok(TextSize::of_prompts(prompts, config.samples))
    } else {
        Err(not_read())
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What each model writes, or scores choice by choice, where the questions are not read.
fn counted(eval: &Eval, data: &DataFacts) -> Known<Asked> {
    let (limit, samples, shots, new) = match (&eval.measure, eval.measure.answers()) {
        (Measure::HumanEval(config), _) => (config.limit, config.samples, 0, config.max_tokens),
        (_, Some((task, answers))) => {
            let config = answers.config();
            (config.limit, 1, config.shots(task), config.max_tokens)
        }
        (measure, None) => {
            let choices = measure.choices();
            let (task, asked) = choices.ok_or("the task asks nothing")?;
            let choices = match task {
                ChoiceTask::TruthfulqaMc1 => CHOICES_OF_TRUTHFUL_QA,
                ChoiceTask::Mmlu | ChoiceTask::Kmmlu | ChoiceTask::HellaSwag => 4,
            };
            (asked.limit, choices, asked.shots.unwrap_or(0), 1)
        }
    };
    let limit = limit.map(|limit| limit as u64);
    let questions = match (data.samples, limit) {
        (Some(records), Some(limit)) => records.min(limit),
        (None, Some(limit)) => limit,
        (_, None) => data.records()?,
    };
    let each = data.samples.map_or(RECORD_TOKENS, |_| data.tokens_each());
    let prompt = (shots + 1) as f64 * each + TEMPLATE_TOKENS;
    let texts = questions.saturating_mul(samples as u64);
    Ok(Asked::alike(texts, prompt, new as u64))
}

/// Windows over documents of one length.
fn windows_of(windows: &Windows, context: Option<usize>, data: &DataFacts) -> Known<Asked> {
    let most = context.unwrap_or(DEFAULT_WINDOW).min(DEFAULT_WINDOW);
    let window = windows.window.unwrap_or(most).clamp(2, 1 << 30);
    let stride = windows.stride.unwrap_or(window / 2).max(1);
    let documents = data.records()?;
    let inputs = (data.tokens_each().ceil() as usize)
        .saturating_sub(1)
        .max(1);
    let further = inputs.saturating_sub(window).div_ceil(stride);
    // The last token of a window is only scored.
    let read = inputs.min(window) + 1 + further * (window + 1);
    Ok(Asked {
        texts: documents.saturating_mul(1 + further as u64),
        read: documents as f64 * read as f64,
        prompt: inputs.min(window) + 1,
        shared: 0,
        new: 1,
    })
}

/// The least that remote models of the stage are taken to read at once: as much as whose tokenizer they have.
fn lent_context(recipe: &Recipe, facts: &Facts, eval: &Eval) -> Option<usize> {
    let lenders = eval.inputs.models.iter();
    let lenders = lenders.filter_map(|name| recipe.models.get(name)?.tokenizer.as_deref());
    let context = |lender: &str| {
        let (_, shape) = facts.models().find(|(name, _)| *name == lender)?;
        Some(shape.config.max_position_embeddings)
    };
    lenders.filter_map(context).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_many_windows_is_a_request_each() {
        // Ten documents of 200 tokens, in windows of what the model sees whose tokenizer it has.
        let data = DataFacts {
            bytes: 8000,
            samples: Some(10),
            ..DataFacts::default()
        };
        let open = Windows {
            window: None,
            stride: None,
        };
        let texts = |context| windows_of(&open, context, &data).unwrap().texts;
        assert_eq!((texts(None), texts(Some(64))), (10, 60));
    }
}
