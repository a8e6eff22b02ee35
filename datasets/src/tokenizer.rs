//! Text to token ids and back.

use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::alphabet::Alphabet;
use crate::error::DataError;
use crate::space_prefix::{SpacePrefix, remove_space_prefix};

/// Texts longer than this many bytes are encoded in parallel pieces.
const PIECE_BYTES: usize = 1 << 16;

/// A tokenizer with the facts that training needs beside the ids: its special tokens and its chat template.
pub struct Tokenizer {
    pub(crate) name: String,
    pub(crate) inner: tokenizers::Tokenizer,
    /// The same without the space that SentencePiece puts before a text, for text that follows other text.
    pub(crate) continuation: Option<tokenizers::Tokenizer>,
    /// Whether that space also appears after a special token inside of a text.
    prefix_after_special: bool,
    pub(crate) alphabet: Alphabet,
    pub(crate) special: SpecialTokens,
    vocabulary_size: usize,
    digest: OnceLock<String>,
}

/// Special token ids and the chat template, as the model's files name them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    /// The token that ends a sequence, then others that also do.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. It names no end-of-sequence token and no template: [`Self::from_directory`] finds those.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
        let name = path.display().to_string();
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| tokenizer_error(&name, e))?;
        Self::from_json(name, value, SpecialTokens::default())
    }

    /// Builds from the contents of a `tokenizer.json`. `name` appears in errors only.
    pub(crate) fn from_json(
        name: String,
        value: Value,
        special: SpecialTokens,
    ) -> Result<Self, DataError> {
        let mut without_prefix = value.clone();
        let prefix = remove_space_prefix(&mut without_prefix);
        let read = |value: Value| {
            serde_json::from_value::<tokenizers::Tokenizer>(value)
                .map_err(|e| tokenizer_error(&name, e))
        };
        let continuation = match prefix {
            SpacePrefix::None => None,
            _ => Some(read(without_prefix)?),
        };
        let inner = read(value)?;
        Self::new(
            name,
            inner,
            continuation,
            prefix == SpacePrefix::EveryPiece,
            special,
        )
    }

    pub(crate) fn new(
        name: String,
        mut inner: tokenizers::Tokenizer,
        mut continuation: Option<tokenizers::Tokenizer>,
        prefix_after_special: bool,
        special: SpecialTokens,
    ) -> Result<Self, DataError> {
        // Files saved after training carry the truncation and padding of that run.
        for tokenizer in std::iter::once(&mut inner).chain(continuation.as_mut()) {
            tokenizer
                .with_truncation(None)
                .map_err(|e| tokenizer_error(&name, e))?;
            tokenizer.with_padding(None);
        }
        let vocabulary_size = inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |highest| highest as usize + 1);
        if vocabulary_size == 0 {
            return Err(tokenizer_error(&name, "the vocabulary is empty"));
        }
        for (key, id) in [
            ("bos", special.bos),
            ("pad", special.pad),
            ("unk", special.unk),
        ]
        .into_iter()
        .chain(special.eos.iter().map(|id| ("eos", Some(*id))))
        {
            if let Some(id) = id
                && inner.id_to_token(id).is_none()
            {
                return Err(tokenizer_error(
                    &name,
                    format!(
                        "the {key} token {id} is not in the vocabulary of {vocabulary_size} tokens"
                    ),
                ));
            }
        }
        let alphabet = Alphabet::of(&inner);
        Ok(Self {
            name,
            inner,
            continuation,
            prefix_after_special,
            alphabet,
            special,
            vocabulary_size,
            digest: OnceLock::new(),
        })
    }

    /// The ids of a whole text; special tokens written in it are recognised.
    /// `add_special` puts the model's own tokens around it (usually the beginning-of-sequence token, or nothing).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        if text.len() > PIECE_BYTES
            && let Some(before) = self.ids_before_text(add_special)?
        {
            let encoded: Vec<Vec<u32>> = split_at_safe_lines(text)
                .into_par_iter()
                .map(|piece| self.encode_with(&self.inner, piece, false))
                .collect::<Result<_, _>>()?;
            return Ok(std::iter::once(before).chain(encoded).flatten().collect());
        }
        self.encode_with(&self.inner, text, add_special)
    }

    /// The ids of a text that follows `previous`: as [`Self::encode`] without special tokens and without the
    /// space that SentencePiece models put before the first word of a text.
    pub fn encode_after(&self, previous: Option<u32>, text: &str) -> Result<Vec<u32>, DataError> {
        let starts_afresh = match previous {
            None => true,
            Some(id) => self.prefix_after_special && self.is_added(id),
        };
        match &self.continuation {
            Some(continuation) if !starts_afresh => self.encode_with(continuation, text, false),
            _ => self.encode(text, false),
        }
    }

    fn encode_with(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
        add_special: bool,
    ) -> Result<Vec<u32>, DataError> {
        let encoding = tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| tokenizer_error(&self.name, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What precedes a text, when the text may be encoded in pieces: byte-level vocabularies whose pre-tokenizer cuts
    /// at line ends, no added token that swallows the space before it, and nothing appended after the text.
    fn ids_before_text(&self, add_special: bool) -> Result<Option<Vec<u32>>, DataError> {
        let lstrip = self
            .inner
            .get_added_tokens_decoder()
            .values()
            .any(|t| t.lstrip);
        if self.alphabet != Alphabet::ByteLevel || self.continuation.is_some() || lstrip {
            return Ok(None);
        }
        let before = self.encode_with(&self.inner, "", add_special)?;
        let only_bos = before.is_empty()
            || Some(before.as_slice()) == self.special.bos.as_ref().map(std::slice::from_ref);
        Ok(only_bos.then_some(before))
    }

    /// The text of ids; ids without a token are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| tokenizer_error(&self.name, e))
    }

    /// The bytes that a token stands for; none for ids without a token (padding rows of an embedding).
    /// Two tokenizers agree on an id when these bytes are equal.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        if self.is_added(id) {
            return Some(token.into_bytes());
        }
        Some(self.alphabet.bytes(token))
    }

    /// The token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a vocabulary entry such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The highest id plus one. A model may have more rows than that.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The tokens that end a sequence; the first is the one that training appends.
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.eos
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos
    }

    pub fn pad_id(&self) -> Option<u32> {
        self.special.pad
    }

    pub fn unk_id(&self) -> Option<u32> {
        self.special.unk
    }

    /// The source of the Jinja template that turns messages into text.
    pub fn chat_template(&self) -> Option<&str> {
        self.special.chat_template.as_deref()
    }

    /// Adds end-of-sequence tokens that another file of the model names (`generation_config.json`, GGUF's `eot`).
    pub fn add_eos_ids(&mut self, ids: &[u32]) {
        for id in ids {
            if self.inner.id_to_token(*id).is_some() && !self.special.eos.contains(id) {
                self.special.eos.push(*id);
            }
        }
        self.digest = OnceLock::new();
    }

    /// SHA-256 (hexadecimal) of everything that decides the ids of a text. The chat template is not part of it.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let special = json!([
                self.special.bos,
                self.special.eos,
                self.special.pad,
                self.special.unk
            ]);
            // Serialising cannot fail for a tokenizer that was read or built; its name stands in if it ever does.
            let tokenizer = self
                .inner
                .to_string(false)
                .unwrap_or_else(|_| self.name.clone());
            let mut hash = Sha256::new();
            hash.update(tokenizer);
            hash.update(special.to_string());
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
        })
    }

    /// Whether a token marks something and is no text: end of a turn, beginning of a sequence.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        (added.get_added_tokens_decoder().get(&id)).is_some_and(|token| token.special)
    }

    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .contains_key(&id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Tokenizer({}, {} tokens)",
            self.name, self.vocabulary_size
        )
    }
}

pub(crate) fn tokenizer_error(name: &str, found: impl ToString) -> DataError {
    DataError::Tokenizer {
        name: name.to_string(),
        found: found.to_string(),
    }
}

/// Pieces of at least [`PIECE_BYTES`], cut after a single line feed between two characters that are no white space:
/// the one place where GPT-2's and all later byte-level patterns always begin a new word.
fn split_at_safe_lines(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_graphic();
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut next = PIECE_BYTES;
    while next + 1 < bytes.len() {
        if bytes[next] == b'\n' && plain(bytes[next - 1]) && plain(bytes[next + 1]) {
            pieces.push(&text[start..=next]);
            start = next + 1;
            next = start + PIECE_BYTES;
        } else {
            next += 1;
        }
    }
    pieces.push(&text[start..]);
    pieces
}
