//! How well a model drafts for another: how much of what it foretells the other would say itself.
//!
//! The measure of a student in speculative decoding (Zhou et al., DistillSpec, arXiv 2310.08461): the longer the
//! drafts that its teacher accepts, the nearer it is to it on the texts that the teacher writes.

use datasets::sample::Sample;
use model::generate::sampling::SamplingConfig;
use model::generate::speculative::Acceptance;
use serde::{Deserialize, Serialize};
use teacher::synth::prompt::Variables;
use teacher::{GenerationRequest, LocalTeacher, Prompt, TeacherError, Writer};

/// Of a text the beginning is the prompt: at most so many tokens, and half of the context.
const TEXT_TOKENS: usize = 64;

/// What is written for the measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcceptanceConfig {
    /// Tokens that are drafted in a round.
    pub draft_tokens: usize,
    /// The first so many samples of the data are continued.
    pub prompts: usize,
    /// The longest text, in tokens.
    pub max_tokens: usize,
    /// Of both models; 0 compares the likeliest tokens.
    pub temperature: f32,
}

impl Default for AcceptanceConfig {
    fn default() -> Self {
        Self {
            draft_tokens: 3,
            prompts: 32,
            max_tokens: 64,
            temperature: 0.0,
        }
    }
}

/// How drafts fared, over all prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AcceptanceScore {
    pub prompts: usize,
    /// New tokens, drafted or not.
    pub tokens: u64,
    #[serde(flatten)]
    pub acceptance: Acceptance,
    /// Accepted tokens a round, the one that the target adds not counted.
    pub acceptance_length: f64,
    /// Share of the drafted tokens that were accepted.
    pub acceptance_rate: f64,
}

/// Lets `draft` draft for `target` on the beginnings of the samples: prompts, conversations up to their last answer, the
/// first 64 tokens of texts. `progress` is told how many prompts are done.
///
/// # Errors
/// Models of two vocabularies; a prompt that is empty or leaves no room.
pub fn acceptance(
    target: &LocalTeacher,
    draft: &LocalTeacher,
    samples: &[Sample],
    config: &AcceptanceConfig,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<AcceptanceScore, TeacherError> {
    let request = GenerationRequest {
        sampling: SamplingConfig {
            temperature: config.temperature,
            ..SamplingConfig::default()
        },
        max_new_tokens: config.max_tokens,
        stop: Vec::new(),
        seed,
    };
    let mut writer = Writer::new(target, Some((draft, config.draft_tokens)))?;
    let mut sum = Acceptance::default();
    let (mut prompts, mut tokens) = (0, 0);
    for (number, sample) in samples.iter().take(config.prompts).enumerate() {
        let ids = beginning(target, number, sample)?;
        writer.forget();
        let written = writer.write(number, &ids, &request, &mut |_| true)?;
        sum += written.acceptance;
        tokens += written.completion.ids.len() as u64;
        prompts += 1;
        progress(prompts as u64);
    }
    Ok(AcceptanceScore {
        prompts,
        tokens,
        acceptance: sum,
        acceptance_length: sum.length(),
        acceptance_rate: sum.rate(),
    })
}

fn beginning(
    target: &LocalTeacher,
    number: usize,
    sample: &Sample,
) -> Result<Vec<u32>, TeacherError> {
    let context = target.decoder().config.max_position_embeddings;
    let prompt = match sample {
        Sample::Text(text) => {
            let mut ids = target.encode(&Prompt::Text(text.clone()))?;
            ids.truncate(TEXT_TOKENS.min(context / 2));
            return match ids.is_empty() {
                true => Err(TeacherError::EmptyPrompt {
                    number: Some(number + 1),
                }),
                false => Ok(ids),
            };
        }
        Sample::Completion { prompt, .. } if target.chat_template().is_none() => {
            Prompt::Text(prompt.clone())
        }
        other => Prompt::Conversation(Variables::of(other, None).messages),
    };
    target.prompt_ids(Some(number + 1), &prompt)
}
