//! `distill generate`: text from a prompt, shown as it is drawn.

use std::io::{self, Write};

use datasets::sample::Message;
use model::generate::sampling::SamplingConfig;
use serde_json::json;
use teacher::tokenizer::load_tokenizer;
use teacher::{GenerationRequest, LocalTeacher, Prompt};

use super::open_model::open_model;
use crate::cli::GenerateArgs;
use crate::device::place;

pub fn run(arguments: GenerateArgs) -> anyhow::Result<()> {
    let request = request(&arguments);
    request.validate()?;
    let placement = place(arguments.model.device.device)?;
    let checkpoint = open_model(&arguments.model)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let decoder = model::load::load_frozen_decoder(&checkpoint, &placement)?;
    let model = LocalTeacher::new(decoder, tokenizer)?;
    let has_template = model.chat_template().is_some();
    let prompt = match arguments.chat || (has_template && !arguments.raw) {
        true => Prompt::Conversation(vec![Message::new("user", &arguments.prompt)]),
        false => Prompt::Text(arguments.prompt.clone()),
    };
    let mut out = io::stdout().lock();
    let mut failed: Option<io::Error> = None;
    let completions = model.generate(&[prompt], &request, &mut |_, text| {
        if !arguments.json && failed.is_none() {
            failed = write!(out, "{text}").and_then(|()| out.flush()).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    match arguments.json {
        true => {
            for completion in &completions {
                writeln!(out, "{}", json!(completion))?;
            }
        }
        false => writeln!(out)?,
    }
    Ok(())
}

fn request(arguments: &GenerateArgs) -> GenerationRequest {
    let all = SamplingConfig::default();
    GenerationRequest {
        sampling: SamplingConfig {
            temperature: arguments.temperature as f32,
            top_k: arguments.top_k.unwrap_or(all.top_k),
            top_p: arguments.top_p.map_or(all.top_p, |p| p as f32),
            min_p: arguments.min_p.map_or(all.min_p, |p| p as f32),
            repetition_penalty: arguments.repetition_penalty as f32,
        },
        max_new_tokens: arguments.max_tokens,
        stop: arguments.stop.clone(),
        seed: arguments.seed,
    }
}
