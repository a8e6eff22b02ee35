//! Settings of GSM8K and MATH.

use serde::{Deserialize, Serialize};

use super::AnswerTask;

/// How a set is asked. The likeliest token is taken each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerConfig {
    /// Worked examples before each question, the first of their data; 5 of gsm8k and none of math when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Ask so many questions only, drawn by the seed from all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Tokens of an answer.
    pub max_tokens: usize,
}

impl Default for AnswerConfig {
    fn default() -> Self {
        Self {
            shots: None,
            limit: None,
            // lm-eval's, where a task does not say.
            max_tokens: 256,
        }
    }
}

impl AnswerConfig {
    pub fn shots(&self, task: AnswerTask) -> usize {
        self.shots.unwrap_or(task.usual_shots())
    }

    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        let checks = [
            (self.limit != Some(0), "limit"),
            (self.max_tokens > 0, "max_tokens"),
        ];
        let wrong = checks.into_iter().filter(|(holds, _)| !holds);
        wrong
            .map(|(_, key)| (key.to_string(), format!("`{key}` must be at least 1")))
            .collect()
    }
}
