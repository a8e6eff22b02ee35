//! The metadata of a GGUF file that is written: encoded pairs, and those that say what the model is.
//!
//! Keys are those of ggml's GGUF specification and of llama.cpp's converter.

use std::path::Path;

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_vocabulary::{GgufVocabulary, NO_TOKENIZER};
use super::llama3_frequencies;
use crate::config::{Architecture, DecoderConfig, RopeScaling};

/// Key and value pairs in the file's own form.
#[derive(Debug, Default)]
pub struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

// Numbers of the value types.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Metadata {
    fn put(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn put_array(&mut self, key: &str, element: u32, count: usize, elements: &[u8]) {
        let mut value = element.to_le_bytes().to_vec();
        value.extend((count as u64).to_le_bytes());
        value.extend(elements);
        self.put(key, ARRAY, &value);
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.put(key, U32, &value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.put(key, F32, &(value as f32).to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.put(key, BOOL, &[u8::from(value)]);
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        put_text(&mut bytes, value);
        self.put(key, STRING, &bytes);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| put_text(&mut bytes, value));
        self.put_array(key, STRING, values.len(), &bytes);
    }

    /// Number of pairs, and all of them.
    pub(crate) fn encoded(&self) -> (u64, &[u8]) {
        (self.count, &self.bytes)
    }

    /// What the file is.
    pub(crate) fn general(&mut self, architecture: &str, file_type: u32, alignment: u32) {
        self.text("general.architecture", architecture);
        self.text("general.type", "model");
        self.u32("general.file_type", file_type);
        self.u32("general.quantization_version", 2);
        self.u32("general.alignment", alignment);
    }

    pub fn name(&mut self, name: &str) {
        self.text("general.name", name);
    }

    /// The pairs of another file whose keys begin with `prefix`, as they are there, but for those in `except`.
    pub fn copy(&mut self, gguf: &Gguf, prefix: &str, except: &[&str]) {
        for (key, value) in gguf.pairs() {
            if key.starts_with(prefix) && !except.contains(&key) {
                let mut bytes = Vec::new();
                let kind = value.encode(gguf.file_bytes(), &mut bytes);
                self.put(key, kind, &bytes);
            }
        }
    }

    /// The keys that begin with the architecture's name.
    pub(crate) fn decoder(
        &mut self,
        path: &Path,
        config: &DecoderConfig,
    ) -> Result<(), WeightsError> {
        let prefix = architecture_name(config.architecture);
        let key = |key: &str| format!("{prefix}.{key}");
        for (name, length) in [
            ("block_count", config.num_hidden_layers),
            ("context_length", config.max_position_embeddings),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_key_value_heads),
            ("attention.key_length", config.head_dim),
            ("attention.value_length", config.head_dim),
            ("rope.dimension_count", config.head_dim),
            ("vocab_size", config.vocab_size),
        ] {
            let length = u32::try_from(length).map_err(|_| {
                WeightsError::unwritable(path, format!("{name} {length} is beyond 32 bits"))
            })?;
            self.u32(&key(name), length);
        }
        self.f32(
            &key("attention.layer_norm_rms_epsilon"),
            config.rms_norm_eps,
        );
        self.f32(&key("rope.freq_base"), config.rope.theta);
        if let RopeScaling::Linear { factor } = config.rope.scaling {
            self.text(&key("rope.scaling.type"), "linear");
            self.f32(&key("rope.scaling.factor"), factor);
        }
        if let RopeScaling::Llama3 {
            original_max_position_embeddings,
            ..
        } = config.rope.scaling
        {
            // The divisors of a short head may fit several lengths; llama.cpp has no use for this.
            let length = u32::try_from(original_max_position_embeddings).unwrap_or(u32::MAX);
            self.u32(&key(llama3_frequencies::ORIGINAL_LENGTH), length);
        }
        if let Some(window) = self.window(path, config)? {
            self.u32(&key("attention.sliding_window"), window);
        }
        Ok(())
    }

    /// The window that all layers share; the format has no place for another arrangement.
    fn window(&self, path: &Path, config: &DecoderConfig) -> Result<Option<u32>, WeightsError> {
        let beyond = |window: &usize| *window < config.max_position_embeddings;
        let windows: Vec<_> = config
            .sliding_windows
            .iter()
            .map(|window| window.filter(beyond))
            .collect();
        let first = windows.first().copied().flatten();
        match first {
            None if windows.iter().all(Option::is_none) => Ok(None),
            Some(window)
                if config.architecture == Architecture::Mistral
                    && windows.iter().all(|other| *other == first) =>
            {
                Ok(u32::try_from(window).ok())
            }
            _ => Err(WeightsError::unwritable(
                path,
                "GGUF cannot say which layers of this architecture have a sliding window",
            )),
        }
    }

    /// The tokenizer; ids index its tokens, which are as many as the embedding has rows. `ends` are the tokens that end
    /// a text beside its `eos`: the format has names for two.
    pub fn vocabulary(&mut self, vocabulary: &GgufVocabulary, ends: &[u32]) {
        self.text("tokenizer.ggml.model", &vocabulary.model);
        if let Some(pre) = &vocabulary.pre {
            self.text("tokenizer.ggml.pre", pre);
        }
        self.texts("tokenizer.ggml.tokens", &vocabulary.tokens);
        if !vocabulary.scores.is_empty() {
            let bytes: Vec<u8> = (vocabulary.scores.iter())
                .flat_map(|score| score.to_le_bytes())
                .collect();
            self.put_array(
                "tokenizer.ggml.scores",
                F32,
                vocabulary.scores.len(),
                &bytes,
            );
        }
        if !vocabulary.token_types.is_empty() {
            let bytes: Vec<u8> = (vocabulary.token_types.iter())
                .flat_map(|kind| kind.to_le_bytes())
                .collect();
            self.put_array(
                "tokenizer.ggml.token_type",
                I32,
                vocabulary.token_types.len(),
                &bytes,
            );
        }
        if !vocabulary.merges.is_empty() {
            self.texts("tokenizer.ggml.merges", &vocabulary.merges);
        }
        let others = ends.iter().filter(|id| vocabulary.eos != Some(**id));
        let ends: Vec<u32> = vocabulary.eos.iter().chain(others).copied().collect();
        self.special_ids(vocabulary.bos, &ends, vocabulary.pad, vocabulary.unk);
        for (key, value) in [
            ("tokenizer.ggml.add_bos_token", vocabulary.add_bos),
            ("tokenizer.ggml.add_eos_token", vocabulary.add_eos),
            (
                "tokenizer.ggml.add_space_prefix",
                vocabulary.add_space_prefix,
            ),
        ] {
            if let Some(value) = value {
                self.bool(key, value);
            }
        }
        if let Some(template) = &vocabulary.chat_template {
            self.text("tokenizer.chat_template", template);
        }
    }

    /// A model without a tokenizer: it can be fed token ids only.
    pub fn no_vocabulary(&mut self, config: &DecoderConfig) {
        self.text("tokenizer.ggml.model", NO_TOKENIZER);
        self.special_ids(
            config.bos_token_id,
            &config.eos_token_ids,
            config.pad_token_id,
            None,
        );
    }

    fn special_ids(&mut self, bos: Option<u32>, eos: &[u32], pad: Option<u32>, unk: Option<u32>) {
        let ends = |at: usize| eos.get(at).copied();
        for (name, id) in [
            ("bos", bos),
            ("eos", ends(0)),
            ("eot", ends(1)),
            ("eom", ends(2)),
            ("padding", pad),
            ("unknown", unk),
        ] {
            if let Some(id) = id {
                self.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
    }
}

/// llama.cpp knows Mistral as Llama.
pub(crate) fn architecture_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    }
}

/// A length as u64, then the bytes.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
