//! Stage `eval`: which models, which task, on which data.

use evals::AcceptanceConfig;
use evals::human_eval::HumanEvalConfig;
use evals::multiple_choice::{ChoiceConfig, ChoiceTask};
use evals::written_answers::{AnswerConfig, AnswerTask};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;

use super::generate::invalid_budget;
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
    /// Of remote models. A limit and no part of what is measured.
    #[serde(skip_serializing, default)]
    pub budget: Option<Budget>,
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
    Gsm8k(Answers),
    Math(Answers),
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
    /// Word problems whose answer is a number (arXiv 2110.14168).
    Gsm8k,
    /// Competition problems whose answer stands in a box (arXiv 2103.03874).
    Math,
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

/// Questions whose answers are written.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Answers {
    /// Worked examples before each question. 5 of gsm8k and none of math when left out.
    pub shots: Option<usize>,
    /// The data that they are taken from: its first ones.
    #[serde(skip_serializing)]
    pub shots_data: Option<String>,
    /// Ask so many questions, drawn by the recipe's seed. All when left out.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// Tokens of an answer. 256 when left out.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<usize>,
}

impl Task {
    /// The set of questions, where the task is one with answers that are written.
    pub fn answers(self) -> Option<AnswerTask> {
        match self {
            Self::Gsm8k => Some(AnswerTask::Gsm8k),
            Self::Math => Some(AnswerTask::Math),
            _ => None,
        }
    }

    /// The set of questions, where the task is one with choices.
    pub fn choices(self) -> Option<ChoiceTask> {
        match self {
            Self::Perplexity | Self::Acceptance | Self::HumanEval => None,
            Self::Gsm8k | Self::Math => None,
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
            Self::Gsm8k(_) => "gsm8k",
            Self::Math(_) => "math",
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
            Self::Gsm8k(_) | Self::Math(_) => None,
            Self::Mmlu(subjects) => Some((ChoiceTask::Mmlu, subjects.clone())),
            Self::Kmmlu(subjects) => Some((ChoiceTask::Kmmlu, subjects.clone())),
            Self::HellaSwag(questions) => Some((ChoiceTask::HellaSwag, plain(questions))),
            Self::TruthfulqaMc1(questions) => Some((ChoiceTask::TruthfulqaMc1, plain(questions))),
        }
    }

    /// The set of questions and how it is asked, where the task is one with answers that are written.
    pub fn answers(&self) -> Option<(AnswerTask, &Answers)> {
        match self {
            Self::Gsm8k(answers) => Some((AnswerTask::Gsm8k, answers)),
            Self::Math(answers) => Some((AnswerTask::Math, answers)),
            _ => None,
        }
    }

    /// Whether models are asked for texts, and nothing else of them is needed.
    pub fn is_written(&self) -> bool {
        matches!(self, Self::HumanEval(_) | Self::Gsm8k(_) | Self::Math(_))
    }

    /// The data that worked examples are taken from.
    pub fn shots_data(&self) -> Option<&str> {
        match self {
            Self::Mmlu(subjects) | Self::Kmmlu(subjects) => subjects.shots_data.as_deref(),
            Self::Gsm8k(answers) | Self::Math(answers) => answers.shots_data.as_deref(),
            _ => None,
        }
    }

    /// Whether the recipe's seed has a part in the result.
    pub(super) fn is_random(&self) -> bool {
        match self {
            Self::Acceptance(drafts) => drafts.temperature.is_some_and(|t| t > 0.0),
            Self::HumanEval(config) => config.temperature > 0.0,
            Self::Gsm8k(answers) | Self::Math(answers) => answers.limit.is_some(),
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

impl Subjects {
    /// `seed` is the recipe's.
    pub fn config(&self, seed: u64) -> ChoiceConfig {
        ChoiceConfig {
            shots: self.shots.unwrap_or(0),
            limit: self.limit,
            seed,
        }
    }
}

impl Answers {
    pub fn config(&self) -> AnswerConfig {
        let open = AnswerConfig::default();
        AnswerConfig {
            shots: self.shots,
            limit: self.limit,
            max_tokens: self.max_tokens.unwrap_or(open.max_tokens),
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
            Task::Gsm8k => parts.take().map(Measure::Gsm8k),
            Task::Math => parts.take().map(Measure::Math),
        });
        Ok(Self {
            inputs: inputs?,
            measure: measure?,
        })
    }

    /// The names that it uses: key, name and what they must stand for.
    pub(super) fn uses(&self) -> Vec<(String, &str, Thing)> {
        let model = match self.measure {
            // What a remote one lacks for other tasks is told by the task.
            Measure::Acceptance(_) => Thing::Model,
            _ => Thing::Writer,
        };
        let models = self.inputs.models.iter().enumerate();
        let mut found: Vec<(String, &str, Thing)> = models
            .map(|(i, name)| (format!("models.{i}"), name.as_str(), model))
            .collect();
        let data = self.inputs.data.as_str();
        match &self.measure {
            Measure::Perplexity(_) => found.push(("data".into(), data, Thing::Samples)),
            Measure::Acceptance(drafts) => {
                found.push(("target".into(), &drafts.target, Thing::Model));
                found.push(("data".into(), data, Thing::Samples));
            }
            measure => {
                found.push(("data".into(), data, Thing::Data));
                let examples = measure.shots_data();
                found.extend(examples.map(|name| ("shots_data".into(), name, Thing::Data)));
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
        let wrong = match &self.measure {
            Measure::HumanEval(config) => config.check(),
            Measure::Gsm8k(answers) | Measure::Math(answers) => answers.config().check(),
            _ => Vec::new(),
        };
        let wrong = wrong.into_iter();
        found.extend(wrong.map(|(key, says)| Invalid::new(key, says)));
        let budget = self.inputs.budget.iter();
        found.extend(budget.flat_map(invalid_budget));
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        let shots = match (self.measure.choices(), self.measure.answers()) {
            (Some((_, subjects)), _) => {
                let limit = subjects.limit != Some(0);
                check(limit, "limit", "`limit` must be at least 1");
                subjects.shots.unwrap_or(0)
            }
            (_, Some((task, answers))) => answers.config().shots(task),
            _ => return found,
        };
        let examples = self.measure.shots_data();
        let says = match self.measure.answers() {
            Some((task, Answers { shots: None, .. })) => format!(
                "`{}` is asked with {shots} worked examples: name `shots_data`, the data that they are taken from, or set `shots = 0`",
                task.name()
            ),
            _ => "`shots` needs `shots_data`, the data that worked examples are taken from".into(),
        };
        check(shots == 0 || examples.is_some(), "shots", &says);
        check(
            shots > 0 || examples.is_none(),
            "shots_data",
            "`shots_data` needs `shots`, how many worked examples stand before each question",
        );
        check(
            examples != Some(self.inputs.data.as_str()),
            "shots_data",
            "`shots_data` is `data` itself: worked examples would tell the answers",
        );
        found
    }
}
