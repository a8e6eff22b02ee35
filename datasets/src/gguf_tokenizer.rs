//! A tokenizer from the vocabulary that a GGUF file carries.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use crate::error::DataError;
use crate::tokenizer::{SpecialTokens, Tokenizer, tokenizer_error};

/// The `tokenizer.*` metadata of a GGUF file as plain values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before BPE.
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// `left right`, for `gpt2`.
    pub merges: Vec<String>,
    /// One a token, for `llama`.
    pub scores: Vec<f32>,
    /// One a token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before a text; it does by default.
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
}

pub(crate) const NORMAL: u32 = 1;
pub(crate) const CONTROL: u32 = 3;
pub(crate) const USER_DEFINED: u32 = 4;
pub(crate) const UNUSED: u32 = 5;

pub(crate) const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KNOWN_PRE: &str = "default, gpt-2, smollm, starcoder, refact, command-r, qwen2, deepseek-r1-qwen, llama-bpe, llama3, llama-v3";

impl Tokenizer {
    /// Rebuilds the tokenizer of a model from its GGUF metadata.
    ///
    /// Fails on lists of different lengths, on ids outside of the vocabulary and on a pre-tokenizer that is not known:
    /// guessing one would give other ids than the model was trained on.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self, DataError> {
        let name = format!("of the GGUF file ({})", vocabulary.model);
        vocabulary.check(&name)?;
        let (inner, continuation) = match vocabulary.model.as_str() {
            "gpt2" => (vocabulary.byte_level(&name)?, None),
            "llama" => {
                let spaced = vocabulary.add_space_prefix.unwrap_or(true);
                let plain = vocabulary.sentence_piece(&name, false)?;
                match spaced {
                    true => (vocabulary.sentence_piece(&name, true)?, Some(plain)),
                    false => (plain, None),
                }
            }
            other => {
                return Err(DataError::UnsupportedTokenizer {
                    name,
                    key: "tokenizer.ggml.model",
                    found: other.to_string(),
                    known: "gpt2, llama".into(),
                });
            }
        };
        let special = SpecialTokens {
            bos: vocabulary.bos,
            eos: vocabulary.eos.into_iter().collect(),
            pad: vocabulary.pad,
            unk: vocabulary.unk,
            chat_template: vocabulary.chat_template,
        };
        Self::new(name, inner, continuation, true, special)
    }
}

impl GgufVocabulary {
    fn check(&self, name: &str) -> Result<(), DataError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(tokenizer_error(
                name,
                "tokenizer.ggml.tokens is missing or empty",
            ));
        }
        for (key, length) in [
            ("token_type", self.token_types.len()),
            ("scores", self.scores.len()),
        ] {
            if length != 0 && length != tokens {
                return Err(tokenizer_error(
                    name,
                    format!("tokenizer.ggml.{key} has {length} entries for {tokens} tokens"),
                ));
            }
        }
        for (key, id) in [
            ("bos", self.bos),
            ("eos", self.eos),
            ("pad", self.pad),
            ("unk", self.unk),
        ] {
            if let Some(id) = id
                && id as usize >= tokens
            {
                return Err(tokenizer_error(
                    name,
                    format!("the {key} token is {id}, but there are {tokens} tokens"),
                ));
            }
        }
        Ok(())
    }

    fn kind(&self, id: usize) -> u32 {
        self.token_types.get(id).copied().unwrap_or(NORMAL)
    }

    /// Whether an entry only fills the embedding up to a round number of rows.
    fn is_padding(&self, id: usize) -> bool {
        self.kind(id) == UNUSED && self.tokens[id].starts_with("[PAD")
    }

    fn vocab(&self) -> Vocab {
        let mut vocab = Vocab::default();
        for (id, token) in self.tokens.iter().enumerate() {
            if !self.is_padding(id) {
                vocab.entry(token.clone()).or_insert(id as u32);
            }
        }
        vocab
    }

    fn byte_level(&self, name: &str) -> Result<tokenizers::Tokenizer, DataError> {
        if self.merges.is_empty() {
            return Err(tokenizer_error(
                name,
                "tokenizer.ggml.merges is missing or empty",
            ));
        }
        let mut merges = Merges::with_capacity(self.merges.len());
        for (row, merge) in self.merges.iter().enumerate() {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(tokenizer_error(
                    name,
                    format!(
                        "tokenizer.ggml.merges[{row}] is {merge:?}, expected two tokens with a space between"
                    ),
                ));
            };
            merges.push((left.to_string(), right.to_string()));
        }
        let pre = self.pre.as_deref().unwrap_or("default");
        let (normalizer, pre_tokenizer, ignore_merges) = match pre {
            "default" | "gpt-2" | "gpt2" => (Value::Null, byte_level_words(true), false),
            "smollm" | "starcoder" | "refact" | "command-r" => (
                Value::Null,
                json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Digits", "individual_digits": true}, byte_level_words(true)]}),
                false,
            ),
            "qwen2" | "deepseek-r1-qwen" => {
                (json!({"type": "NFC"}), pattern_words(QWEN2_PATTERN), false)
            }
            "llama-bpe" | "llama3" | "llama-v3" => {
                (Value::Null, pattern_words(LLAMA3_PATTERN), true)
            }
            other => {
                return Err(DataError::UnsupportedTokenizer {
                    name: name.to_string(),
                    key: "tokenizer.ggml.pre",
                    found: other.to_string(),
                    known: KNOWN_PRE.into(),
                });
            }
        };
        let model = BPE::builder()
            .vocab_and_merges(self.vocab(), merges)
            .ignore_merges(ignore_merges)
            .build()
            .map_err(|e| tokenizer_error(name, e))?;
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        self.assemble(name, model, normalizer, pre_tokenizer, decoder, false)
    }

    fn sentence_piece(
        &self,
        name: &str,
        space_prefix: bool,
    ) -> Result<tokenizers::Tokenizer, DataError> {
        if self.scores.is_empty() {
            return Err(tokenizer_error(
                name,
                "tokenizer.ggml.scores is missing or empty",
            ));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab(), self.merges_from_scores())
            .byte_fallback(true)
            .fuse_unk(true);
        if let Some(unknown) = self.unk {
            builder = builder.unk_token(self.tokens[unknown as usize].clone());
        }
        let model = builder.build().map_err(|e| tokenizer_error(name, e))?;
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if space_prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        self.assemble(name, model, normalizer, Value::Null, decoder, true)
    }

    /// SentencePiece joins the neighbours whose union scores best: every way to split an entry in two becomes a merge,
    /// ranked by the entry's score (and as Hugging Face does among equals: the longer left part first).
    pub(crate) fn merges_from_scores(&self) -> Merges {
        let vocab = self.vocab();
        let mut ranked: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kind(id) != NORMAL {
                continue;
            }
            let mut splits: Vec<(u32, u32, &str, &str)> = Vec::new();
            for (cut, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(cut);
                if let (Some(l), Some(r)) = (vocab.get(left), vocab.get(right)) {
                    splits.push((*l, *r, left, right));
                }
            }
            splits.sort_unstable();
            ranked.extend(
                splits.into_iter().map(|(_, _, l, r)| {
                    (self.scores[id], l.chars().count(), r.chars().count(), l, r)
                }),
            );
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        ranked
            .into_iter()
            .map(|(_, _, _, l, r)| (l.to_string(), r.to_string()))
            .collect()
    }

    fn assemble(
        &self,
        name: &str,
        model: BPE,
        normalizer: Value,
        pre_tokenizer: Value,
        decoder: Value,
        add_bos_by_default: bool,
    ) -> Result<tokenizers::Tokenizer, DataError> {
        fn part<T: serde::de::DeserializeOwned>(
            name: &str,
            value: Value,
        ) -> Result<Option<T>, DataError> {
            serde_json::from_value(value).map_err(|e| tokenizer_error(name, e))
        }
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer
            .with_normalizer(part::<tokenizers::NormalizerWrapper>(name, normalizer)?)
            .map_err(|e| tokenizer_error(name, e))?;
        tokenizer.with_pre_tokenizer(part::<tokenizers::PreTokenizerWrapper>(
            name,
            pre_tokenizer,
        )?);
        tokenizer.with_decoder(part::<tokenizers::DecoderWrapper>(name, decoder)?);
        let added = |id: Option<u32>, adds: bool| {
            let id = id.filter(|_| adds)?;
            Some((self.tokens[id as usize].as_str(), id))
        };
        let first = added(self.bos, self.add_bos.unwrap_or(add_bos_by_default));
        let last = added(self.eos, self.add_eos.unwrap_or(false));
        if first.is_some() || last.is_some() {
            let processor = surrounding_processor(first, last);
            tokenizer
                .with_post_processor(part::<tokenizers::PostProcessorWrapper>(name, processor)?);
        }
        let added = self.tokens.iter().enumerate().filter_map(|(id, token)| {
            let control = self.kind(id) == CONTROL;
            let named = [self.bos, self.eos, self.pad, self.unk].contains(&Some(id as u32));
            (control || named || self.kind(id) == USER_DEFINED)
                .then(|| AddedToken::from(token.clone(), control || named).normalized(false))
        });
        tokenizer
            .add_tokens(added)
            .map_err(|e| tokenizer_error(name, e))?;
        Ok(tokenizer)
    }
}

fn byte_level_words(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn pattern_words(pattern: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        byte_level_words(false)]})
}

/// Puts tokens before and after a text.
fn surrounding_processor(first: Option<(&str, u32)>, last: Option<(&str, u32)>) -> Value {
    let around = |name: &str, type_id: u32| {
        let special = |token: Option<(&str, u32)>| {
            token.map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": type_id}}))
        };
        let text = json!({"Sequence": {"id": name, "type_id": type_id}});
        let parts = [special(first), Some(text), special(last)];
        parts.into_iter().flatten().collect::<Vec<_>>()
    };
    let special = |(token, id): (&str, u32)| {
        let described = json!({"id": token, "ids": [id], "tokens": [token]});
        (token.to_string(), described)
    };
    let specials: Map<String, Value> = [first, last].into_iter().flatten().map(special).collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": specials,
    })
}
