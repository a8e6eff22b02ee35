//! `distill generate`: text from prompts, that of a single one shown as it is drawn.

pub mod stats;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use datasets::sample::Message;
use model::generate::speculative::Acceptance;
use serde_json::json;
use teacher::local::OnText;
use teacher::tokenizer::load_tokenizer;
use teacher::{Completion, GenerationRequest, LocalTeacher, Prompt, Writer};

use super::open_model::{open_draft, open_model_at};
use super::remote;
use crate::cli::GenerateArgs;
use crate::device::place;
use crate::source::{Cache, ModelSource};
use stats::{Clock, Stats};

pub fn run(arguments: GenerateArgs) -> anyhow::Result<()> {
    let request = arguments.sampling.request();
    request.validate()?;
    let texts = texts(&arguments)?;
    if let ModelSource::Remote(remote) = &arguments.model.model {
        return remote::generate(remote, &texts, &arguments);
    }
    let placement = place(arguments.model.device.device)?;
    let path = arguments.model.stored()?.resolve(&Cache::from_env()?)?;
    let start = Instant::now();
    let checkpoint = open_model_at(&path, &arguments.model)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let decoder = model::load::load_frozen_decoder(&checkpoint, &placement)?;
    let model = LocalTeacher::new(decoder, tokenizer)?;
    let draft = open_draft(&arguments.draft, &placement)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let has_template = model.chat_template().is_some();
    let prompts: Vec<Prompt> = (texts.iter())
        .map(
            |text| match arguments.chat || (has_template && !arguments.raw) {
                true => Prompt::Conversation(vec![Message::new("user", text)]),
                false => Prompt::Text(text.clone()),
            },
        )
        .collect();
    let stats = match arguments.stats {
        true => Some(Stats::loaded(&model, &prompts, load_seconds)?),
        false => None,
    };
    let mut out = io::stdout().lock();
    let mut failed: Option<io::Error> = None;
    let streamed = prompts.len() == 1 && !arguments.json;
    let mut clock = Clock::start(prompts.len());
    let mut on_text = |prompt: usize, text: &str| {
        clock.tick(prompt);
        if streamed && failed.is_none() {
            failed = write!(out, "{text}").and_then(|()| out.flush()).err();
        }
    };
    let (completions, acceptance) = match &draft {
        Some(draft) => {
            let writer = Writer::new(&model, Some((draft, arguments.draft.draft_tokens)))?;
            let (completions, acceptance) =
                drafted(writer, &model, &prompts, &request, &mut on_text)?;
            (completions, Some(acceptance))
        }
        None => (model.generate(&prompts, &request, &mut on_text)?, None),
    };
    if let Some(error) = failed {
        return Err(error.into());
    }
    match streamed {
        true => writeln!(out)?,
        false => show(&mut out, &completions, arguments.json)?,
    }
    if let Some(stats) = stats {
        let stats = stats.generated(&clock, &completions, acceptance);
        match arguments.json {
            true => writeln!(out, "{}", json!({ "stats": stats }))?,
            false => eprint!("{stats}"),
        }
    }
    Ok(())
}

/// One prompt after the other, with drafts.
fn drafted(
    mut writer: Writer,
    model: &LocalTeacher,
    prompts: &[Prompt],
    request: &GenerationRequest,
    on_text: &mut OnText,
) -> anyhow::Result<(Vec<Completion>, Acceptance)> {
    let encoded: Vec<Vec<u32>> = (prompts.iter().enumerate())
        .map(|(i, prompt)| model.prompt_ids(Some(i + 1), prompt))
        .collect::<Result<_, _>>()?;
    let (mut completions, mut acceptance) = (Vec::new(), Acceptance::default());
    for (number, ids) in encoded.iter().enumerate() {
        writer.forget();
        let written = writer.write(number, ids, request, &mut |text| {
            on_text(number, text);
            true
        })?;
        completions.push(written.completion);
        acceptance += written.acceptance;
    }
    Ok((completions, acceptance))
}

fn show(out: &mut impl Write, completions: &[Completion], as_json: bool) -> io::Result<()> {
    for (number, completion) in completions.iter().enumerate() {
        match as_json {
            true => writeln!(out, "{}", json!(completion))?,
            false => writeln!(out, "=== {}\n{}", number + 1, completion.text)?,
        }
    }
    Ok(())
}

/// The prompts of the command line, or of the file.
fn texts(arguments: &GenerateArgs) -> anyhow::Result<Vec<String>> {
    match &arguments.prompts {
        Some(path) => read_prompts(path),
        None => Ok(arguments.prompt.clone()),
    }
}

fn read_prompts(path: &Path) -> anyhow::Result<Vec<String>> {
    let named = || format!("cannot read the prompts {}", path.display());
    let file = fs::read_to_string(path).with_context(named)?;
    let lines = file.lines().enumerate();
    let texts: Vec<String> = (lines.filter(|(_, line)| !line.trim().is_empty()))
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| {
                anyhow::anyhow!(
                    "{}: line {} is no JSON string: {error}\nhint: a prompt a line, each in double quotes",
                    path.display(),
                    at + 1
                )
            })
        })
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(
        !texts.is_empty(),
        "{}: there is no prompt in it",
        path.display()
    );
    Ok(texts)
}
