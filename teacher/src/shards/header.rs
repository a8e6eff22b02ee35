//! What a shard says of itself.

use std::path::Path;

use datasets::mask::SampleEncoder;
use datasets::mixture::Corpus;
use datasets::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Encoding, ShardError};

/// Raised when the same numbers would be written as other bytes.
pub const FORMAT: u32 = 1;

/// What all shards of a directory have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub format: u32,
    pub encoding: Encoding,
    /// What the teacher's logits were divided by.
    pub temperature: f64,
    /// The type that the teacher computed in.
    pub dtype: String,
    /// Leading columns of the teacher's head that are tokens; the others were left out.
    pub vocabulary: usize,
    pub teacher: String,
    /// Not written where it is that of the whole distribution.
    #[serde(default, skip_serializing_if = "EntropyOf::is_whole")]
    pub entropy_of: EntropyOf,
    /// Of what draws; of no matter without them.
    pub seed: u64,
    pub tokens: TokenDescription,
    pub shards: usize,
}

/// What the entropies of the targets are of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntropyOf {
    /// The teacher's whole distribution.
    #[default]
    Whole,
    /// The list, and all other tokens taken as one: a lower bound of it.
    ListAndTail,
}

impl EntropyOf {
    fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

/// The tokens that the targets belong to, and what stands before each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenDescription {
    /// SHA-256 of the bytes of every token in the order of the ids.
    pub tokenizer: String,
    /// SHA-256 of the chat template; `None` without one.
    pub template: Option<String>,
    /// SHA-256 of the tokens and masks of each data set.
    pub data: Vec<String>,
    pub sequence_length: usize,
}

/// One shard's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub description: Description,
    /// From 0.
    pub shard: usize,
    pub first_piece: usize,
    pub pieces: usize,
    pub first_target: u64,
    /// Tokens that are learned: positions with targets.
    pub targets: usize,
    /// SHA-256 of this header without its checksum and of the arrays.
    pub checksum: String,
}

impl TokenDescription {
    /// What a stage that encodes its data so would have to find.
    pub fn of(
        tokenizer: &Tokenizer,
        encoder: &SampleEncoder,
        corpus: &Corpus,
        sequence_length: usize,
    ) -> Self {
        let mut hash = Sha256::new();
        for id in 0..tokenizer.vocabulary_size() as u32 {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            hash.update((bytes.len() as u32).to_le_bytes());
            hash.update(bytes);
        }
        Self {
            tokenizer: hexadecimal(hash),
            template: encoder.template().map(|template| template.digest()),
            data: (corpus.caches().iter())
                .map(|cache| cache.digest())
                .collect(),
            sequence_length,
        }
    }

    /// # Errors
    /// [`ShardError::Differs`] with the first field that is not as `wanted` has it.
    pub fn check(&self, wanted: &Self, directory: &Path) -> Result<(), ShardError> {
        let lists = |tokens: &Self| tokens.data.join(", ");
        let template = |tokens: &Self| tokens.template.clone().unwrap_or_else(|| "none".into());
        let length = |tokens: &Self| tokens.sequence_length.to_string();
        let fields: [(&'static str, String, String); 4] = [
            (
                "tokenizer",
                self.tokenizer.clone(),
                wanted.tokenizer.clone(),
            ),
            ("template", template(self), template(wanted)),
            ("data", lists(self), lists(wanted)),
            ("sequence_length", length(self), length(wanted)),
        ];
        let differs = fields.into_iter().find(|(_, ours, theirs)| ours != theirs);
        match differs {
            None => Ok(()),
            Some((field, captured, wanted)) => Err(ShardError::Differs {
                path: directory.to_owned(),
                field,
                captured,
                wanted,
            }),
        }
    }
}

impl Header {
    /// The checksum that belongs to this header and these arrays.
    pub fn checksum_of<'a>(&self, arrays: impl IntoIterator<Item = &'a [u8]>) -> String {
        let without = Self {
            checksum: String::new(),
            ..self.clone()
        };
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&without).unwrap_or_default());
        arrays.into_iter().for_each(|array| hash.update(array));
        hexadecimal(hash)
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
