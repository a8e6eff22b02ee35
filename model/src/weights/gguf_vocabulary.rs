//! The tokenizer that a GGUF file carries, as plain values.

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_value::GgufValue;

/// The `tokenizer.ggml.model` of a file without a tokenizer.
pub(crate) const NO_TOKENIZER: &str = "none";

/// The `tokenizer.*` metadata of a GGUF file. Ids index `tokens`.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocabulary {
    /// `gpt2` for byte-level BPE, `llama` for SentencePiece.
    pub model: String,
    /// Which pre-tokenizer splits the text, by llama.cpp's name.
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// Pairs in order of rank, each with a space between its halves; empty if the file has none.
    pub merges: Vec<String>,
    /// One for each token; empty if the file has none.
    pub scores: Vec<f32>,
    /// One for each token (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte);
    /// empty if the file has none.
    pub token_types: Vec<i32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    /// Whether an encoded text opens with `bos`; `None` if the file does not say.
    pub add_bos: Option<bool>,
    /// Whether it closes with `eos`; `None` if the file does not say.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text; `None` if the file does not say.
    pub add_space_prefix: Option<bool>,
    /// Jinja source.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// `None` for a file that says that it has no tokenizer (`tokenizer.ggml.model` is `none`).
    ///
    /// # Errors
    /// If the file has no tokenizer and does not say so, an entry has another type than it should, an array's length
    /// differs from the number of tokens, or a special id is beyond them.
    pub fn read(gguf: &Gguf) -> Result<Option<Self>, WeightsError> {
        let path = gguf.path();
        let text = |key: &str| Ok(gguf.string(key)?.map(str::to_owned));
        let texts = |key: &str| {
            gguf.array(key, "an array of texts", |value| match value {
                GgufValue::String(text) => Ok(text),
                other => Err(other),
            })
        };

        let model = text("tokenizer.ggml.model")?;
        let tokens = texts("tokenizer.ggml.tokens")?;
        if model.as_deref() == Some(NO_TOKENIZER) && tokens.is_none() {
            return Ok(None);
        }
        let (Some(model), Some(tokens)) = (model, tokens) else {
            let expected = "a tokenizer (`tokenizer.ggml.model` and `tokenizer.ggml.tokens`)";
            return Err(WeightsError::key(
                path,
                "tokenizer.ggml",
                "incomplete",
                expected,
            ));
        };

        let scores = gguf.array(
            "tokenizer.ggml.scores",
            "an array of f32",
            |value| match value {
                GgufValue::F32(score) => Ok(score),
                other => Err(other),
            },
        )?;
        let token_types = gguf.array(
            "tokenizer.ggml.token_type",
            "an array of integers",
            |value| {
                value
                    .as_i64()
                    .and_then(|kind| kind.try_into().ok())
                    .ok_or(value)
            },
        )?;
        for (key, length) in [
            ("tokenizer.ggml.scores", scores.as_ref().map(Vec::len)),
            (
                "tokenizer.ggml.token_type",
                token_types.as_ref().map(Vec::len),
            ),
        ] {
            if let Some(length) = length.filter(|length| *length != tokens.len()) {
                let expected = format!("one element for each of the {} tokens", tokens.len());
                return Err(WeightsError::key(
                    path,
                    key,
                    format!("{length} elements long"),
                    expected,
                ));
            }
        }

        Ok(Some(Self {
            bos: special_id(gguf, "bos", tokens.len())?,
            eos: special_id(gguf, "eos", tokens.len())?,
            pad: special_id(gguf, "padding", tokens.len())?,
            unk: special_id(gguf, "unknown", tokens.len())?,
            add_bos: gguf.boolean("tokenizer.ggml.add_bos_token")?,
            add_eos: gguf.boolean("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: gguf.boolean("tokenizer.ggml.add_space_prefix")?,
            chat_template: text("tokenizer.chat_template")?,
            pre: text("tokenizer.ggml.pre")?,
            merges: texts("tokenizer.ggml.merges")?.unwrap_or_default(),
            scores: scores.unwrap_or_default(),
            token_types: token_types.unwrap_or_default(),
            model,
            tokens,
        }))
    }
}

/// `tokenizer.ggml.{name}_token_id`, checked to be below `limit`.
pub(crate) fn special_id(
    gguf: &Gguf,
    name: &str,
    limit: usize,
) -> Result<Option<u32>, WeightsError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = gguf.unsigned(&key)? else {
        return Ok(None);
    };
    match u32::try_from(id) {
        // Files without such a token sometimes say −1 as u32.
        Ok(u32::MAX) => Ok(None),
        Ok(id) if (id as usize) < limit => Ok(Some(id)),
        _ => {
            let expected = format!("a token id below {limit}");
            Err(WeightsError::key(
                gguf.path(),
                &key,
                id.to_string(),
                expected,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::test_files::{GgufFile, tiny_llama_gguf};

    #[test]
    fn the_tokenizer_is_handed_out() {
        let gguf = tiny_llama_gguf().open().unwrap();
        let vocabulary = GgufVocabulary::read(&gguf).unwrap().unwrap();
        assert_eq!(vocabulary.model, "gpt2");
        let mut none = tiny_llama_gguf();
        none.remove("tokenizer.ggml.tokens");
        none.set_string("tokenizer.ggml.model", NO_TOKENIZER);
        assert_eq!(GgufVocabulary::read(&none.open().unwrap()).unwrap(), None);
        assert_eq!(vocabulary.pre.as_deref(), Some("smollm"));
        assert_eq!(vocabulary.tokens.len(), 8);
        assert_eq!(vocabulary.tokens[3], "t3");
        assert_eq!(vocabulary.merges, ["t 1", "t 2"]);
        assert_eq!(vocabulary.token_types, [3, 3, 3, 1, 1, 1, 1, 1]);
        assert_eq!(
            (vocabulary.bos, vocabulary.eos, vocabulary.pad),
            (Some(1), Some(2), None)
        );
        assert_eq!(vocabulary.add_bos, Some(false));
        assert_eq!(vocabulary.chat_template.as_deref(), Some("{{ messages }}"));
    }

    #[test]
    fn contradictions_are_errors() {
        let message = |file: GgufFile| {
            let gguf = file.open().unwrap();
            GgufVocabulary::read(&gguf).unwrap_err().to_string()
        };
        let mut file = tiny_llama_gguf();
        file.set_u32("tokenizer.ggml.eos_token_id", 8);
        assert!(message(file).contains("token id below 8"));
        let mut file = tiny_llama_gguf();
        file.set_i32_array("tokenizer.ggml.token_type", &[1, 1]);
        assert!(message(file).contains("2 elements long"));
        let mut file = tiny_llama_gguf();
        file.set_i32_array("tokenizer.ggml.tokens", &[1, 1]);
        assert!(message(file).contains("tokens[0]` is the integer 1"));
        let mut file = tiny_llama_gguf();
        file.remove("tokenizer.ggml.model");
        assert!(message(file).contains("tokenizer.ggml"));
    }
}
