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

/// What the samples of a pair are called.
const SIDES: [&str; 2] = ["chosen", "rejected"];

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
            "no stage of the recipe learns the tokens of its data, or measures perplexity on them\n\
             hint: what a stage makes lies in its directory as data.jsonl, what an evaluation asks in its records"
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
    let named = || format!("data `{}`", view.data);
    let source = data.source.resolve(cache).with_context(named)?;
    let config = data.with_source(source);
    let encoder = encoder(&tokenizer, view)?;
    let directory = cache.root().join("tokens");
    let tokens = match view.pairs {
        true => TokenCache::of_pairs(&directory, &config, &encoder),
        false => TokenCache::of_data(&directory, &config, &encoder),
    };
    let tokens = Arc::new(tokens.with_context(named)?);
    writeln!(out, "{}", view.heading())?;
    let marks = Marks::of(std::io::stdout().is_terminal());
    let length = view.sequence.as_ref().map(|sequence| sequence.length);
    let shown_samples = if view.pairs { 2 * samples } else { samples };
    for number in 0..shown_samples.min(tokens.len()) {
        let sample = tokens.sample(number);
        let name = match view.pairs {
            true => format!("pair {}, {}", number / 2 + 1, SIDES[number % 2]),
            false => format!("sample {}", number + 1),
        };
        writeln!(out, "--- {name}: {} tokens", sample.ids.len())?;
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
        Some(sequence) => Some(pack(&tokens, sequence, view.pairs, recipe.seed)?),
        None => None,
    };
    match view.pairs {
        true => write_pair_counts(out, &tokens, packing.as_ref()),
        false => write_counts(out, &tokens, packing.as_ref()),
    }
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
    pairs: bool,
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
    let corpus = Corpus::new(vec![(tokens.clone(), 1.0)])?;
    let loader = match pairs {
        true => BatchLoader::of_pairs(corpus, config)?,
        false => BatchLoader::new(corpus, config)?,
    };
    Ok(loader.report())
}

/// Both sides of a pair are samples of their own.
fn write_pair_counts(
    out: &mut impl Write,
    tokens: &TokenCache,
    packing: Option<&PackingReport>,
) -> anyhow::Result<()> {
    let (left_out, without) = (tokens.left_out(), tokens.without_targets() / 2);
    let all = tokens.len() as u64 / 2 + without + left_out.equal + left_out.empty;
    writeln!(out, "--- all of it")?;
    writeln!(out, "pairs       {all}")?;
    writeln!(out, "tokens      {}", tokens.tokens())?;
    let share = 100.0 * tokens.supervised() as f64 / tokens.tokens().max(1) as f64;
    writeln!(out, "supervised  {} ({share:.1}%)", tokens.supervised())?;
    let too_long = packing.map_or(0, |report| report.dropped_samples / 2);
    let equal = left_out.equal + packing.map_or(0, |report| report.equal_samples / 2);
    writeln!(
        out,
        "dropped     {}: {} with equal answers, {} with an empty prompt or answer, {without} with nothing to learn, {too_long} without room for both answers",
        counted(equal + left_out.empty + without + too_long, "pairs"),
        equal,
        left_out.empty,
    )?;
    if let Some(report) = packing {
        writeln!(
            out,
            "truncated   {}, {}",
            counted(report.truncated_samples, "answers"),
            counted(report.truncated_tokens, "tokens")
        )?;
        let padding = counted(report.padding_tokens, "positions");
        writeln!(out, "sequences   {} ({padding} of padding)", report.rows)?;
    }
    writeln!(out)?;
    Ok(())
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
