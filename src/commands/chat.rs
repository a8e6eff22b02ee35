//! `distill chat`: a conversation, line by line.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use datasets::sample::Message;
use model::load::load_frozen_decoder;
use teacher::tokenizer::load_tokenizer;
use teacher::{FinishReason, LocalTeacher, Prompt, TeacherError, Writer};

use super::generate::stats::Drafts;
use super::open_model::{open_draft, open_model};
use super::remote;
use crate::cli::ChatArgs;
use crate::device::place;
use crate::source::ModelSource;

/// An answer is being written; Ctrl-C takes it back, and the answer ends.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// Answers a conversation, to stdout as it comes, and gives the answer.
type Answer<'a> = dyn FnMut(&[Message]) -> Result<String> + 'a;

pub fn run(arguments: ChatArgs) -> Result<()> {
    arguments.sampling.request().validate()?;
    if let ModelSource::Remote(remote) = &arguments.model.model {
        return converse(&arguments, &mut |messages| {
            let text = remote::answer(remote, messages, &arguments)?;
            writeln!(io::stdout(), "{text}")?;
            Ok(text)
        });
    }
    let placement = place(arguments.model.device.device)?;
    let checkpoint = open_model(&arguments.model)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let model = LocalTeacher::new(load_frozen_decoder(&checkpoint, &placement)?, tokenizer)?;
    model.chat_template().context(
        "the model has no chat template: it has learned no conversations\nhint: `distill generate` continues a text",
    )?;
    let draft = open_draft(&arguments.draft, &placement)?;
    let draft = draft
        .as_ref()
        .map(|draft| (draft, arguments.draft.draft_tokens));
    let mut writer = Writer::new(&model, draft)?;
    ctrlc::set_handler(|| {
        if !ANSWERING.swap(false, Ordering::Relaxed) {
            std::process::exit(1);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    converse(&arguments, &mut |messages| {
        answer(&model, &mut writer, messages, &arguments)
    })
}

/// Reads turns until there are no more.
fn converse(arguments: &ChatArgs, answer: &mut Answer) -> Result<()> {
    let beginning: Vec<Message> = (arguments.system.iter())
        .map(|text| Message::new("system", text))
        .collect();
    let mut messages = beginning.clone();
    let is_watched = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().split(b'\n');
    loop {
        if is_watched {
            eprint!("> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("cannot read what is said")?;
        match String::from_utf8_lossy(&line).trim() {
            "" => {}
            "/exit" => break,
            "/reset" => messages.clone_from(&beginning),
            text => {
                messages.push(Message::new("user", text));
                match answer(&messages) {
                    Ok(text) => messages.push(Message::new("assistant", text)),
                    Err(error) if is_watched && is_full(&error) => {
                        eprintln!("{}", full(&error));
                        messages.pop();
                    }
                    Err(error) if is_full(&error) => anyhow::bail!(full(&error)),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn is_full(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<TeacherError>();
    matches!(error, Some(TeacherError::PromptTooLong { .. }))
}

fn full(error: &anyhow::Error) -> String {
    match error.downcast_ref::<TeacherError>() {
        Some(TeacherError::PromptTooLong {
            tokens, context, ..
        }) => format!(
            "the conversation has {tokens} tokens, which leaves no room in the model's context of {context}\n\
             hint: /reset begins anew"
        ),
        _ => error.to_string(),
    }
}

fn answer(
    model: &LocalTeacher,
    writer: &mut Writer,
    messages: &[Message],
    arguments: &ChatArgs,
) -> Result<String> {
    let start = Instant::now();
    let prompt = model.prompt_ids(None, &Prompt::Conversation(messages.to_vec()))?;
    let request = arguments.sampling.request();
    let mut out = io::stdout().lock();
    let mut failed: Option<io::Error> = None;
    ANSWERING.store(true, Ordering::Relaxed);
    let written = writer.write(0, &prompt, &request, &mut |text| {
        failed = write!(out, "{text}").and_then(|()| out.flush()).err();
        failed.is_none() && ANSWERING.load(Ordering::Relaxed)
    })?;
    let interrupted = !ANSWERING.swap(false, Ordering::Relaxed);
    if let Some(error) = failed {
        return Err(error.into());
    }
    writeln!(out)?;
    let completion = written.completion;
    let new = completion.ids.len();
    let context = model.decoder().config.max_position_embeddings;
    match completion.finish_reason {
        _ if interrupted => eprintln!("(interrupted)"),
        FinishReason::Length if prompt.len() + new >= context => {
            eprintln!("(the model's context of {context} tokens is full; /reset begins anew)");
        }
        FinishReason::Length => eprintln!("(cut after {new} tokens: --max-tokens)"),
        _ => {}
    }
    if arguments.stats {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{} of {} tokens reused, {new} new in {seconds:.2} s",
            written.reused,
            prompt.len()
        );
        if arguments.draft.draft.is_some() {
            eprintln!("{}", Drafts::from(written.acceptance));
        }
    }
    Ok(completion.text)
}
