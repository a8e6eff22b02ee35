//! `distill shards`: what soft targets on disk hold.

use std::io::Write;

use datasets::tokenizer::Tokenizer;
use serde::Serialize;
use teacher::shards::header::EntropyOf;
use teacher::shards::{Description, Encoding, SoftTargets};

use crate::cli::ShardsArgs;

/// Tokens of a position that the table shows.
const SHOWN: usize = 8;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    description: Description,
    targets: u64,
    /// Of them, positions that something is known of.
    known: usize,
    bytes: u64,
    bytes_per_token: f64,
    entropy: Entropy,
    samples: Vec<Sample>,
}

/// Nats a position, of the teacher at the temperature.
#[derive(Serialize)]
struct Entropy {
    mean: f64,
    standard_deviation: f64,
    smallest: f32,
    median: f32,
    largest: f32,
}

#[derive(Serialize)]
struct Sample {
    /// Its place among all positions.
    target: usize,
    /// None where nothing is known.
    entropy: Option<f32>,
    /// Without one for draws.
    tail: f32,
    /// The most probable first.
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    /// Without one where the tokenizer is not beside the shards.
    text: Option<String>,
    probability: f32,
}

pub fn run(arguments: ShardsArgs) -> anyhow::Result<()> {
    let targets = SoftTargets::open(&arguments.directory)?;
    let tokenizer = Tokenizer::from_directory(&arguments.directory).ok();
    let bytes: u64 = targets.shards().iter().map(|shard| shard.size()).sum();
    let entropies = entropies(&targets);
    let report = Report {
        description: targets.description().clone(),
        targets: targets.targets(),
        known: entropies.len(),
        bytes,
        bytes_per_token: bytes as f64 / targets.targets().max(1) as f64,
        entropy: Entropy::of(entropies),
        samples: samples(&targets, arguments.samples, tokenizer.as_ref())?,
    };
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write_table(&mut out, &report)?,
    }
    Ok(())
}

/// Of all positions that something is known of.
fn entropies(targets: &SoftTargets) -> Vec<f32> {
    let all = (targets.shards().iter())
        .flat_map(|shard| (0..shard.header.targets).map(|at| shard.entropy(at)));
    all.filter(|entropy| !entropy.is_nan()).collect()
}

impl Entropy {
    fn of(mut all: Vec<f32>) -> Self {
        all.sort_unstable_by(f32::total_cmp);
        let count = all.len().max(1) as f64;
        let mean = all.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let squares: f64 = all.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
        Self {
            mean,
            standard_deviation: (squares / count).sqrt(),
            smallest: all.first().copied().unwrap_or_default(),
            median: all.get(all.len() / 2).copied().unwrap_or_default(),
            largest: all.last().copied().unwrap_or_default(),
        }
    }
}

fn samples(
    targets: &SoftTargets,
    count: usize,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<Vec<Sample>> {
    let first = targets.first(count)?;
    let entropies = (targets.shards().iter())
        .flat_map(|shard| (0..shard.header.targets).map(|at| shard.entropy(at)));
    let text = |id: u32| {
        let bytes = tokenizer?.token_bytes(id)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let sample = |(target, entropy): (usize, f32)| {
        let (ids, probabilities) = first.entries(target);
        let mut tokens: Vec<Token> = (ids.iter().zip(probabilities))
            .map(|(&id, &probability)| Token {
                id,
                text: text(id),
                probability,
            })
            .collect();
        tokens.sort_by(|a, b| {
            b.probability
                .total_cmp(&a.probability)
                .then(a.id.cmp(&b.id))
        });
        Sample {
            target,
            entropy: (!entropy.is_nan()).then_some(entropy),
            tail: first.tails[target],
            tokens,
        }
    };
    let shown = count.min(first.len());
    Ok((0..shown).zip(entropies).map(sample).collect())
}

fn write_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Description {
        encoding,
        temperature,
        dtype,
        vocabulary,
        teacher,
        entropy_of,
        tokens,
        shards,
        ..
    } = &report.description;
    let encoding = match encoding {
        Encoding::TopK(top) => format!("top {} with tail, {} bits", top.k, top.bits),
        Encoding::Sampled(sampled) => format!("{} draws", sampled.samples),
    };
    let template = tokens.template.as_deref().unwrap_or("none");
    for (name, value) in [
        ("encoding", encoding),
        ("temperature", temperature.to_string()),
        (
            "positions",
            match report.targets - report.known as u64 {
                0 => format!("{} in {shards} shards", report.targets),
                unknown => format!(
                    "{} in {shards} shards, {unknown} of them without a target",
                    report.targets
                ),
            },
        ),
        (
            "size",
            format!(
                "{} bytes, {:.1} a position",
                report.bytes, report.bytes_per_token
            ),
        ),
        ("cut at", format!("{} tokens", tokens.sequence_length)),
        ("vocabulary", format!("{vocabulary} tokens")),
        ("computed in", dtype.clone()),
        ("teacher", teacher.clone()),
        ("tokenizer", tokens.tokenizer.clone()),
        ("template", template.to_string()),
        ("data", tokens.data.join(" ")),
    ] {
        writeln!(out, "{name:<12} {value}")?;
    }
    let entropy = &report.entropy;
    let bound = match entropy_of {
        EntropyOf::Whole => "",
        EntropyOf::ListAndTail => ", the tail taken as one token: a lower bound",
    };
    writeln!(
        out,
        "entropy      mean {:.4}, standard deviation {:.4}, {:.4} to {:.4}, median {:.4} nats{bound}",
        entropy.mean, entropy.standard_deviation, entropy.smallest, entropy.largest, entropy.median
    )?;
    for sample in &report.samples {
        let Some(entropy) = sample.entropy else {
            writeln!(out, "\nposition {}: nothing is known", sample.target)?;
            continue;
        };
        write!(
            out,
            "\nposition {}: entropy {entropy:.3}, tail {:.4}\n ",
            sample.target, sample.tail
        )?;
        for token in sample.tokens.iter().take(SHOWN) {
            let name = match &token.text {
                Some(text) => format!("{text:?}"),
                None => token.id.to_string(),
            };
            write!(out, " {name} {:.4}", token.probability)?;
        }
        let more = sample.tokens.len().saturating_sub(SHOWN);
        match more {
            0 => writeln!(out)?,
            more => writeln!(out, " and {more} more")?,
        }
    }
    Ok(())
}
