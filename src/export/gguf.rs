//! A GGUF file, complete with its tokenizer, and a table of what is in it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use datasets::tokenizer::Tokenizer;
use indicatif::HumanBytes;
use model::config::Architecture;
use model::quant::block_type::GgmlType;
use model::weights::gguf::Gguf;
use model::weights::gguf_metadata::Metadata;
use model::weights::gguf_types::PlannedTensor;
use model::weights::gguf_vocabulary::GgufVocabulary;
use model::weights::gguf_writer::{GgufSummary, write_gguf};
use model::weights::staged_file::StagedFile;
use teacher::tokenizer::gguf_vocabulary;

use super::{ExportSource, Weights};

/// Keys of the file as a whole that follow from what is written.
const OWN_KEYS: [&str; 5] = [
    "general.architecture",
    "general.type",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
];

/// Ends of a text that GGUF has names for: `eos`, `eot`, `eom`.
const NAMED_ENDS: usize = 3;

pub(super) fn write(
    source: &ExportSource,
    name: &str,
    target: &Path,
    kind: GgmlType,
) -> Result<StagedFile> {
    let mut staged = StagedFile::new(target)?;
    let config = source.config();
    let metadata = metadata(source, name)?;
    let summary = write_gguf(&mut staged, config, kind, &metadata, |name| {
        source.tensor(name).map(|(_, _, values)| values)
    })?;
    eprint!("{}", table(&summary));
    let window = config.sliding_windows.iter().flatten().next();
    if let (Architecture::Mistral, Some(window)) = (config.architecture, window) {
        tracing::warn!(
            "llama.cpp has no sliding window for this architecture: it differs beyond {window} tokens"
        );
    }
    Ok(staged)
}

/// Name and tokenizer. What a GGUF file says of them is given on as it is.
fn metadata(source: &ExportSource, name: &str) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let gguf = match (&source.tokenizer, &source.weights) {
        (None, Weights::Stored(checkpoint)) => checkpoint.gguf(),
        _ => None,
    };
    if let Some(gguf) = gguf
        && has_whole_vocabulary(gguf, source.config().vocab_size)?
    {
        metadata.copy(gguf, "general.", &OWN_KEYS);
        metadata.copy(gguf, "tokenizer.", &[]);
        return Ok(metadata);
    }
    metadata.name(name);
    let own = source.own_tokenizer()?;
    match source.tokenizer.as_ref().or(own.as_ref()) {
        Some(tokenizer) => {
            let vocabulary = gguf_vocabulary(tokenizer, source.config().vocab_size)?;
            metadata.vocabulary(&vocabulary, &ends(tokenizer));
        }
        None => {
            tracing::warn!("there is no tokenizer to export; the model can be fed token ids only");
            metadata.no_vocabulary(source.config());
        }
    }
    Ok(metadata)
}

/// Whether there is a token for each row of the embedding.
fn has_whole_vocabulary(gguf: &Gguf, rows: usize) -> Result<bool> {
    let vocabulary = GgufVocabulary::read(gguf)?;
    Ok(vocabulary.is_some_and(|vocabulary| vocabulary.tokens.len() == rows))
}

/// The tokens that end a text.
fn ends(tokenizer: &Tokenizer) -> Vec<u32> {
    let ends = tokenizer.eos_ids();
    if ends.len() > NAMED_ENDS {
        let lost: Vec<String> = (ends[NAMED_ENDS..].iter())
            .filter_map(|id| tokenizer.token(*id))
            .collect();
        tracing::warn!("GGUF names {NAMED_ENDS} tokens that end a text; left out: {lost:?}");
    }
    ends.to_vec()
}

/// Tensors by type, and what got another type than was asked for.
fn table(summary: &GgufSummary) -> String {
    let mut types: BTreeMap<u32, (GgmlType, usize, u64)> = BTreeMap::new();
    for tensor in &summary.tensors {
        let values: usize = tensor.shape.iter().product();
        let bytes = tensor.kind.bytes_of(values).unwrap_or(0) as u64;
        let entry = types
            .entry(tensor.kind.identifier())
            .or_insert((tensor.kind, 0, 0));
        (entry.1, entry.2) = (entry.1 + 1, entry.2 + bytes);
    }
    let mut text = format!("wrote {} tensors\n", summary.tensors.len());
    for (kind, count, bytes) in types.values() {
        let size = HumanBytes(*bytes).to_string();
        text += &format!("  {:4}  {count:5}  {size:>10}\n", kind.name());
    }
    for line in other_types(&summary.tensors) {
        text += &format!("  {line}\n");
    }
    text += &format!("  {} in all\n", HumanBytes(summary.bytes));
    text
}

/// What got another type than was asked for, and why: a line a type and length of rows.
pub fn other_types(tensors: &[PlannedTensor]) -> Vec<String> {
    let mut instead: BTreeMap<(u32, u32, usize), (String, usize)> = BTreeMap::new();
    for tensor in tensors {
        let Some(wanted) = tensor.instead_of else {
            continue;
        };
        let row = tensor.shape.last().copied().unwrap_or(1);
        let (got, block) = (tensor.kind.name(), wanted.block_len());
        let line = format!(
            "{got} instead of {}: rows of {row} values are not whole blocks of {block}",
            wanted.name()
        );
        let key = (wanted.identifier(), tensor.kind.identifier(), row);
        instead.entry(key).or_insert((line, 0)).1 += 1;
    }
    (instead.into_values())
        .map(|(line, count)| format!("{count} × {line}"))
        .collect()
}
