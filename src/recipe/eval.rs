//! Stage `eval`: which models, which task, on which data.

use evals::AcceptanceConfig;
use evals::human_eval::HumanEvalConfig;
use evals::multiple_choice::ChoiceTask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};
use super::problem::Problem;
use super::read::Parts;
use super::stage::Thing;

#[derive(Clone, Debug, Serialize)]
pub struct Eval {
    #[serde(flatten)]
    pub inputs: EvalInputs,
    #[serde(flatten)]
    pub measure: Measure,
}

/// Evaluates models, side by side.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct EvalInputs {
    /// The models that are evaluated.
    #[serde(skip_serializing)]
    #[schemars(length(min = 1))]
    pub models: Vec<String>,
    /// What they are evaluated on.
    #[serde(skip_serializing)]
    pub data: String,
}

/// A task with what it takes. The key `task` tells them apart.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Measure {
    Perplexity(Windows),
    Acceptance(Drafts),
    Mmlu(Subjects),
    Kmmlu(Subjects),
    #[serde(rename = "hellaswag")]
    HellaSwag(Questions),
    TruthfulqaMc1(Questions),
    HumanEval(HumanEvalConfig),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Task {
    /// How well the models predict a text.
    Perplexity,
    /// How much of the models' drafts the model `target` accepts.
    #[value(skip)]
    Acceptance,
    /// Questions of 57 subjects with four choices (arXiv 2009.03300).
    Mmlu,
    /// Questions of 45 Korean subjects with four choices (arXiv 2402.11548).
    Kmmlu,
    /// Which of four endings a text has (arXiv 1905.07830).
    #[serde(rename = "hellaswag")]
    #[value(name = "hellaswag")]
    HellaSwag,
    /// Questions that many people answer wrongly (arXiv 2109.07958).
    TruthfulqaMc1,
    /// Programs that have to pass tests (arXiv 2107.03374).
    HumanEval,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Windows {
    /// Tokens that the model sees at once. Its own context, 2048 at most, when left out.
    #[schemars(range(min = 2))]
    pub window: Option<usize>,
    /// Tokens by which the window moves. Half of it when left out.
    #[schemars(range(min = 1))]
    pub stride: Option<usize>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Drafts {
    /// The model that the others draft for.
    #[serde(skip_serializing)]
    pub target: String,
    /// Tokens of a draft. 3 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub draft_tokens: Option<usize>,
    /// How many of the data are asked. 32 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub prompts: Option<usize>,
    /// Tokens of an answer, 3 at least. 64 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3))]
    pub max_tokens: Option<usize>,
    /// 0, also when left out, takes the most probable token each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub temperature: Option<f32>,
}

/// Questions of many subjects.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Subjects {
    /// Worked examples before each question, of the same subject. None when left out.
    pub shots: Option<usize>,
    /// The data that worked examples are taken from, in its order.
    #[serde(skip_serializing)]
    pub shots_data: Option<String>,
    /// Ask so many questions, drawn by the recipe's seed. All when left out.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Questions {
    /// Ask so many questions, drawn by the recipe's seed. All when left out.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
}

impl Task {
    /// The set of questions, where the task is one with choices.
    pub fn choices(self) -> Option<ChoiceTask> {
        match self {
            Self::Perplexity | Self::Acceptance | Self::HumanEval => None,
            Self::Mmlu => Some(ChoiceTask::Mmlu),
            Self::Kmmlu => Some(ChoiceTask::Kmmlu),
            Self::HellaSwag => Some(ChoiceTask::HellaSwag),
            Self::TruthfulqaMc1 => Some(ChoiceTask::TruthfulqaMc1),
        }
    }
}

impl Measure {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Perplexity(_) => "perplexity",
            Self::Acceptance(_) => "acceptance",
            Self::HumanEval(_) => "human_eval",
            _ => self.choices().map_or("", |(task, _)| task.name()),
        }
    }

    /// The set of questions and how it is asked, where the task is one with choices.
    pub fn choices(&self) -> Option<(ChoiceTask, Subjects)> {
        let plain = |questions: &Questions| Subjects {
            limit: questions.limit,
            ..Subjects::default()
        };
        match self {
            Self::Perplexity(_) | Self::Acceptance(_) | Self::HumanEval(_) => None,
            Self::Mmlu(subjects) => Some((ChoiceTask::Mmlu, subjects.clone())),
            Self::Kmmlu(subjects) => Some((ChoiceTask::Kmmlu, subjects.clone())),
            Self::HellaSwag(questions) => Some((ChoiceTask::HellaSwag, plain(questions))),
            Self::TruthfulqaMc1(questions) => Some((ChoiceTask::TruthfulqaMc1, plain(questions))),
        }
    }

    /// Whether the recipe's seed has a part in the result.
    pub(super) fn is_random(&self) -> bool {
        match self {
            Self::Acceptance(drafts) => drafts.temperature.is_some_and(|t| t > 0.0),
            Self::HumanEval(config) => config.temperature > 0.0,
            _ => (self.choices()).is_some_and(|(_, subjects)| subjects.limit.is_some()),
        }
    }
}

impl Drafts {
    /// What is measured; what the recipe leaves open has its default.
    pub fn config(&self) -> AcceptanceConfig {
        let open = AcceptanceConfig::default();
        AcceptanceConfig {
            draft_tokens: self.draft_tokens.unwrap_or(open.draft_tokens),
            prompts: self.prompts.unwrap_or(open.prompts),
            max_tokens: self.max_tokens.unwrap_or(open.max_tokens),
            temperature: self.temperature.unwrap_or(open.temperature),
        }
    }
}

impl Eval {
    pub(super) fn read(parts: &mut Parts) -> Result<Self, Problem> {
        #[derive(Deserialize, JsonSchema)]
        struct Which {
            /// What is measured.
            task: Task,
        }
        let inputs = parts.take();
        let measure = parts.take::<Which>().and_then(|which| match which.task {
            Task::Perplexity => parts.take().map(Measure::Perplexity),
            Task::Acceptance => parts.take().map(Measure::Acceptance),
            Task::Mmlu => parts.take().map(Measure::Mmlu),
            Task::Kmmlu => parts.take().map(Measure::Kmmlu),
            Task::HellaSwag => parts.take().map(Measure::HellaSwag),
            Task::TruthfulqaMc1 => parts.take().map(Measure::TruthfulqaMc1),
            Task::HumanEval => parts.take().map(Measure::HumanEval),
        });
        Ok(Self {
            inputs: inputs?,
            measure: measure?,
        })
    }

    /// The names that it uses: key, name and what they must stand for.
    pub(super) fn uses(&self) -> Vec<(String, &str, Thing)> {
        let models = self.inputs.models.iter().enumerate();
        let mut found: Vec<(String, &str, Thing)> = models
            .map(|(i, model)| (format!("models.{i}"), model.as_str(), Thing::Model))
            .collect();
        let data = self.inputs.data.as_str();
        match &self.measure {
            Measure::Perplexity(_) => found.push(("data".into(), data, Thing::Samples)),
            Measure::Acceptance(drafts) => {
                found.push(("target".into(), &drafts.target, Thing::Model));
                found.push(("data".into(), data, Thing::Samples));
            }
            Measure::Mmlu(subjects) | Measure::Kmmlu(subjects) => {
                found.push(("data".into(), data, Thing::Data));
                let examples = subjects.shots_data.as_deref();
                found.extend(examples.map(|name| ("shots_data".into(), name, Thing::Data)));
            }
            Measure::HellaSwag(_) | Measure::TruthfulqaMc1(_) | Measure::HumanEval(_) => {
                found.push(("data".into(), data, Thing::Data));
            }
        }
        found
    }

    pub(super) fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        let models = &self.inputs.models;
        check(!models.is_empty(), "models", "`models` names none");
        for (i, name) in models.iter().enumerate() {
            let once = !models[..i].contains(name);
            let says = format!("`{name}` is listed twice");
            check(once, &format!("models.{i}"), &says);
        }
        match &self.measure {
            Measure::Perplexity(Windows { window, stride }) => {
                check(
                    window.is_none_or(|window| window >= 2),
                    "window",
                    "`window` must be at least 2 tokens",
                );
                check(
                    stride.is_none_or(|s| s >= 1 && window.is_none_or(|w| s <= w)),
                    "stride",
                    "`stride` must lie between 1 and `window`",
                );
            }
            Measure::Acceptance(drafts) => {
                let config = drafts.config();
                for (key, number) in [
                    ("draft_tokens", config.draft_tokens),
                    ("prompts", config.prompts),
                ] {
                    check(number > 0, key, &format!("`{key}` must be at least 1"));
                }
                check(
                    config.max_tokens > 2,
                    "max_tokens",
                    "`max_tokens` must be at least 3: the first token is not drafted, nor the last",
                );
                check(
                    config.temperature >= 0.0 && config.temperature.is_finite(),
                    "temperature",
                    "`temperature` must be 0 or more",
                );
            }
            _ => {}
        }
        if let Measure::HumanEval(config) = &self.measure {
            let wrong = config.check().into_iter();
            found.extend(wrong.map(|(key, says)| Invalid::new(key, says)));
            return found;
        }
        if let Some((_, subjects)) = self.measure.choices() {
            let limit = subjects.limit != Some(0);
            check(limit, "limit", "`limit` must be at least 1");
            let shots = subjects.shots.unwrap_or(0);
            check(
                shots == 0 || subjects.shots_data.is_some(),
                "shots",
                "`shots` needs `shots_data`, the data that worked examples are taken from",
            );
            check(
                shots > 0 || subjects.shots_data.is_none(),
                "shots_data",
                "`shots_data` needs `shots`, how many worked examples stand before each question",
            );
            check(
                subjects.shots_data.as_ref() != Some(&self.inputs.data),
                "shots_data",
                "`shots_data` is `data` itself: worked examples would tell the answers",
            );
        }
        found
    }
}
