//! Stage `eval`: which models, which task, on which data.

use evals::multiple_choice::ChoiceTask;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};
use super::stage::Thing;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Eval {
    pub task: Task,
    #[serde(skip_serializing)]
    pub models: Vec<String>,
    #[serde(skip_serializing)]
    pub data: String,
    /// Perplexity: tokens that the model sees at once; its own context, 2048 at most, when left out.
    pub window: Option<usize>,
    /// Perplexity: tokens by which the window moves; half of it when left out.
    pub stride: Option<usize>,
    /// Worked examples before each question, of the same subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// The data that worked examples are taken from, in its order.
    #[serde(skip_serializing)]
    pub shots_data: Option<String>,
    /// Ask so many questions, drawn by the recipe's seed; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Task {
    Perplexity,
    Mmlu,
    Kmmlu,
    #[serde(rename = "hellaswag")]
    #[value(name = "hellaswag")]
    HellaSwag,
    TruthfulqaMc1,
}

impl Task {
    /// The set of questions, where the task is one with choices.
    pub fn choices(self) -> Option<ChoiceTask> {
        match self {
            Self::Perplexity => None,
            Self::Mmlu => Some(ChoiceTask::Mmlu),
            Self::Kmmlu => Some(ChoiceTask::Kmmlu),
            Self::HellaSwag => Some(ChoiceTask::HellaSwag),
            Self::TruthfulqaMc1 => Some(ChoiceTask::TruthfulqaMc1),
        }
    }

    pub fn name(self) -> &'static str {
        self.choices().map_or("perplexity", ChoiceTask::name)
    }

    /// The data that it is measured on.
    pub(super) fn wanted(self) -> Thing {
        match self {
            Self::Perplexity => Thing::Samples,
            _ => Thing::Data,
        }
    }
}

impl Eval {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        check(!self.models.is_empty(), "models", "`models` names none");
        for (i, name) in self.models.iter().enumerate() {
            let once = !self.models[..i].contains(name);
            let says = format!("`{name}` is listed twice");
            check(once, &format!("models.{i}"), &says);
        }
        let choices = self.task.choices();
        let of_perplexity = [
            ("window", self.window.is_some()),
            ("stride", self.stride.is_some()),
        ];
        let of_questions = [("limit", self.limit.is_some())];
        let of_subjects = [
            ("shots", self.shots.is_some()),
            ("shots_data", self.shots_data.is_some()),
        ];
        for (key, given) in of_perplexity {
            let says = format!("`{key}` is perplexity's: other tasks have questions");
            check(!given || choices.is_none(), key, &says);
        }
        for (key, given) in of_questions {
            let says = format!("`{key}` counts questions, and perplexity has none");
            check(!given || choices.is_some(), key, &says);
        }
        for (key, given) in of_subjects {
            let says =
                format!("`{key}` needs a task whose questions have subjects: `mmlu` or `kmmlu`");
            check(
                !given || choices.is_some_and(ChoiceTask::has_subjects),
                key,
                &says,
            );
        }
        check(
            self.window.is_none_or(|window| window >= 2),
            "window",
            "`window` must be at least 2 tokens",
        );
        check(
            self.stride
                .is_none_or(|s| s >= 1 && self.window.is_none_or(|w| s <= w)),
            "stride",
            "`stride` must lie between 1 and `window`",
        );
        check(self.limit != Some(0), "limit", "`limit` must be at least 1");
        let shots = self.shots.unwrap_or(0);
        check(
            shots == 0 || self.shots_data.is_some(),
            "shots",
            "`shots` needs `shots_data`, the data that worked examples are taken from",
        );
        check(
            shots > 0 || self.shots_data.is_none(),
            "shots_data",
            "`shots_data` needs `shots`, how many worked examples stand before each question",
        );
        found
    }
}
