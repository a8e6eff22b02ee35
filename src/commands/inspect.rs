//! `distill inspect`: what the model will see of a recipe's data.

mod show;
mod view;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use datasets::cache::TokenCache;
use datasets::chat_template::ChatTemplate;
use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
use datasets::mask::SampleEncoder;
use datasets::mixture::Corpus;
use datasets::packing::PackingReport;
use datasets::tokenizer::Tokenizer;
use teacher::tokenizer::load_tokenizer;

use super::open_model::open;
use crate::cli::InspectArgs;
use crate::counted::counted;
use crate::recipe::Recipe;
use crate::source::{Cache, ModelSource};
use show::{Marks, shown};
use view::{View, views};

pub fn run(arguments: InspectArgs) -> anyhow::Result<()> {
    let from = &arguments.recipe;
    let recipe = Recipe::load(&from.recipe, from.preset.as_deref(), &from.set)?;
    if let Some(name) = arguments
        .data
        .as_ref()
        .filter(|name| !recipe.data.contains_key(*name))
    {
        let known: Vec<&str> = recipe.data.keys().map(String::as_str).collect();
        bail!(
            "the recipe has no data `{name}`; it has: {}",
            known.join(", ")
        );
    }
    let wanted = |view: &View| {
        arguments
            .data
            .as_ref()
            .is_none_or(|name| view.data == *name)
    };
    let views: Vec<View> = views(&recipe).into_iter().filter(wanted).collect();
    if views.is_empty() {
        bail!(
            "no stage of the recipe trains on its data or scores it: no model will see it\n\
             hint: what a stage `generate` makes lies in its directory as data.jsonl"
        );
    }
    let cache = Cache::from_env()?;
    let mut out = std::io::stdout().lock();
    for view in views {
        inspect(&recipe, &view, arguments.samples, &cache, &mut out)?;
    }
    Ok(())
}

fn inspect(
    recipe: &Recipe,
    view: &View,
    samples: usize,
    cache: &Cache,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let tokenizer = tokenizer(recipe, &view.model)?;
    let data = &recipe.data[&view.data];
    let source = (data.source.resolve(cache)).with_context(|| format!("data `{}`", view.data))?;
    let config = data.with_source(source);
    let encoder = encoder(&tokenizer, view)?;
    let tokens = Arc::new(TokenCache::of_data(
        &cache.root().join("tokens"),
        &config,
        &encoder,
    )?);
    writeln!(out, "{}", view.heading())?;
    let marks = Marks::of(std::io::stdout().is_terminal());
    let length = view.sequence.as_ref().map(|sequence| sequence.length);
    for number in 0..samples.min(tokens.len()) {
        let sample = tokens.sample(number);
        writeln!(
            out,
            "--- sample {}: {} tokens",
            number + 1,
            sample.ids.len()
        )?;
        let kept = length.unwrap_or(usize::MAX).min(sample.ids.len());
        let text = shown(
            &tokenizer,
            &sample.ids[..kept],
            &sample.supervised[..kept],
            marks,
        );
        writeln!(out, "{text}")?;
        if kept < sample.ids.len() {
            let rest = sample.ids.len() - kept;
            let becomes = match sample.splittable {
                true => "follow in sequences of their own",
                false => "are cut off",
            };
            writeln!(out, "… {rest} more tokens {becomes}")?;
        }
    }
    let packing = match &view.sequence {
        Some(sequence) => Some(pack(&tokens, sequence, recipe.seed)?),
        None => None,
    };
    write_counts(out, &tokens, packing.as_ref())
}

/// The tokenizer of a declared model, or of the one that it borrows it from.
fn tokenizer(recipe: &Recipe, model: &str) -> anyhow::Result<Tokenizer> {
    let config = &recipe.models[model];
    match (&config.tokenizer, &config.source) {
        (Some(other), _) if other != model => tokenizer(recipe, other),
        (_, ModelSource::Stored(source)) => Ok(load_tokenizer(&open(source)?)?),
        (_, ModelSource::Random(_)) => bail!(
            "model `{model}` is a random one and has no tokenizer\n\
             hint: name the model whose tokenizer it uses: tokenizer = \"…\""
        ),
        (_, ModelSource::Remote(_)) => {
            bail!("model `{model}` is remote: its tokenizer is not here")
        }
    }
}

fn encoder<'a>(tokenizer: &'a Tokenizer, view: &View) -> anyhow::Result<SampleEncoder<'a>> {
    let template = view
        .sequence
        .as_ref()
        .and_then(|sequence| sequence.chat_template.as_ref());
    let Some(source) = template else {
        return Ok(SampleEncoder::new(tokenizer)?);
    };
    let template = ChatTemplate::with_tokens_of(source, tokenizer)?;
    Ok(SampleEncoder::with_template(tokenizer, Some(template)))
}

fn pack(
    tokens: &Arc<TokenCache>,
    sequence: &view::Sequence,
    seed: u64,
) -> anyhow::Result<PackingReport> {
    let config = LoaderConfig {
        sequence_length: sequence.length,
        batch: BatchSize::Rows(1),
        seed,
        stage: String::new(),
        packing: sequence.packing,
        pad: 0,
    };
    Ok(BatchLoader::new(Corpus::new(vec![(tokens.clone(), 1.0)])?, config)?.report())
}

fn write_counts(
    out: &mut impl Write,
    tokens: &TokenCache,
    packing: Option<&PackingReport>,
) -> anyhow::Result<()> {
    let without_targets = tokens.without_targets();
    writeln!(out, "--- all of it")?;
    writeln!(out, "samples     {}", tokens.len() as u64 + without_targets)?;
    writeln!(out, "tokens      {}", tokens.tokens())?;
    let share = 100.0 * tokens.supervised() as f64 / tokens.tokens().max(1) as f64;
    writeln!(out, "supervised  {} ({share:.1}%)", tokens.supervised())?;
    if let Some(report) = packing {
        writeln!(
            out,
            "truncated   {}, {}",
            counted(report.truncated_samples, "samples"),
            counted(report.truncated_tokens, "tokens")
        )?;
        writeln!(
            out,
            "dropped     {}: {without_targets} with nothing to learn, {} whose prompt fills the sequence",
            counted(report.dropped_samples + without_targets, "samples"),
            report.dropped_samples
        )?;
        writeln!(
            out,
            "sequences   {} ({} split, {} of padding)",
            report.rows,
            counted(report.split_samples, "samples"),
            counted(report.padding_tokens, "positions")
        )?;
    } else {
        writeln!(
            out,
            "dropped     {} with nothing to learn",
            counted(without_targets, "samples")
        )?;
    }
    writeln!(out)?;
    Ok(())
}
