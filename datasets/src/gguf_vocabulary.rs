//! A tokenizer as the vocabulary that a GGUF file carries: [`gguf_tokenizer`](crate::gguf_tokenizer) backwards.

use std::collections::HashMap;

use serde_json::Value;

use crate::alphabet::Alphabet;
use crate::error::DataError;
use crate::gguf_tokenizer::{
    CONTROL, GgufVocabulary, LLAMA3_PATTERN, NORMAL, QWEN2_PATTERN, UNUSED, USER_DEFINED,
};
use crate::tokenizer::{Tokenizer, tokenizer_error};

const UNKNOWN: u32 = 2;
const BYTE: u32 = 6;

impl Tokenizer {
    /// The vocabulary for a model of `rows` rows; those without a token are named as padding.
    ///
    /// # Errors
    /// GGUF names pre-tokenizers and does not describe them. One that has no name there is an error: another one
    /// would give other ids. So is a model that is neither byte-level BPE nor SentencePiece's BPE, and a
    /// post-processor that adds more than a first and a last token.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocabulary, DataError> {
        let json = serde_json::to_value(&self.inner).map_err(|e| tokenizer_error(&self.name, e))?;
        if json["model"]["type"] != "BPE" {
            return Err(self.without_name("model", &json["model"]["type"], "BPE"));
        }
        let mut tokens = Vec::with_capacity(rows);
        let mut token_types = Vec::with_capacity(rows);
        for id in 0..rows as u32 {
            let token = self.inner.id_to_token(id);
            token_types.push(self.token_type(id, token.as_deref()));
            tokens.push(token.unwrap_or_else(|| format!("[PAD{id}]")));
        }
        let mut vocabulary = GgufVocabulary {
            tokens,
            token_types,
            bos: self.special.bos,
            eos: self.special.eos.first().copied(),
            pad: self.special.pad,
            unk: self.special.unk,
            chat_template: self.special.chat_template.clone(),
            ..GgufVocabulary::default()
        };
        self.set_surroundings(&mut vocabulary, &json["post_processor"])?;
        let merges = merges(&json["model"]);
        match self.alphabet {
            Alphabet::ByteLevel => {
                vocabulary.model = "gpt2".to_string();
                vocabulary.pre = Some(self.pre_tokenizer_name(&json)?.to_string());
                let joined = merges.iter().map(|(left, right)| format!("{left} {right}"));
                vocabulary.merges = joined.collect();
            }
            Alphabet::SentencePiece if json["model"]["byte_fallback"] == true => {
                vocabulary.model = "llama".to_string();
                vocabulary.add_space_prefix = Some(self.continuation.is_some());
                vocabulary.scores = scores(&vocabulary.tokens, &merges);
                if vocabulary.merges_from_scores() != merges {
                    let found = Value::from("merges in an order that no scores give");
                    return Err(self.without_name("model", &found, "SentencePiece's"));
                }
            }
            _ => {
                let decoder = &json["decoder"];
                let known = "byte-level, or SentencePiece's with byte_fallback";
                return Err(self.without_name("decoder", decoder, known));
            }
        }
        Ok(vocabulary)
    }

    fn without_name(&self, part: &'static str, found: &Value, known: &str) -> DataError {
        DataError::NotInGguf {
            name: self.name.clone(),
            part,
            // Some parts hold whole tables.
            found: found.to_string().chars().take(200).collect(),
            known: known.to_string(),
        }
    }

    fn token_type(&self, id: u32, token: Option<&str>) -> u32 {
        let Some(token) = token else { return UNUSED };
        let is_sentence_piece = self.alphabet == Alphabet::SentencePiece;
        if is_sentence_piece && self.special.unk == Some(id) {
            UNKNOWN
        } else if self.is_special(id) {
            CONTROL
        } else if self.is_added(id) {
            USER_DEFINED
        } else if is_sentence_piece && token.len() == 6 && token.starts_with("<0x") {
            BYTE
        } else {
            NORMAL
        }
    }

    /// Whether texts open with the first token and close with the last.
    fn set_surroundings(
        &self,
        vocabulary: &mut GgufVocabulary,
        found: &Value,
    ) -> Result<(), DataError> {
        let around = self.encode("", true)?;
        let end = |id: &u32| self.special.eos.contains(id);
        let (first, last) = match around.as_slice() {
            [] => (None, None),
            [last] if end(last) && self.special.bos != Some(*last) => (None, Some(*last)),
            [first] => (Some(*first), None),
            [first, last] if end(last) => (Some(*first), Some(*last)),
            _ => {
                return Err(self.without_name(
                    "post_processor",
                    found,
                    "a first token, a last token",
                ));
            }
        };
        vocabulary.add_bos = Some(first.is_some());
        vocabulary.add_eos = Some(last.is_some());
        vocabulary.bos = first.or(vocabulary.bos);
        vocabulary.eos = last.or(vocabulary.eos);
        Ok(())
    }

    /// llama.cpp's name for what cuts the text before BPE, by what it does.
    fn pre_tokenizer_name(&self, json: &Value) -> Result<&'static str, DataError> {
        let normalizer = &json["normalizer"];
        // llama.cpp does not normalise: NFC is lost, which texts that are NFC, nearly all, do not notice.
        if !(normalizer.is_null() || normalizer["type"] == "NFC") {
            return Err(self.without_name("normalizer", normalizer, "none, NFC"));
        }
        let mut steps = Vec::new();
        add_steps(&json["pre_tokenizer"], &mut steps);
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        match steps.as_slice() {
            ["bytes by words"] => Ok("gpt-2"),
            ["digits", "bytes by words"] => Ok("smollm"),
            [QWEN2_PATTERN, "bytes"] => Ok("qwen2"),
            [LLAMA3_PATTERN, "bytes"] => Ok("llama-bpe"),
            _ => {
                let known = "those of gpt-2, smollm, qwen2, llama-bpe";
                Err(self.without_name("pre_tokenizer", &json["pre_tokenizer"], known))
            }
        }
    }
}

/// SentencePiece joins the neighbours whose union scores best, Hugging Face those whose merge is listed first: a token
/// scores by the place of its first merge. Tokens whose merges interleave were equals.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut spans: HashMap<String, (usize, usize)> = HashMap::new();
    for (place, (left, right)) in merges.iter().enumerate() {
        let span = spans.entry(format!("{left}{right}"));
        span.or_insert((place, place)).1 = place;
    }
    let mut ordered: Vec<(usize, usize)> = spans.values().copied().collect();
    ordered.sort_unstable();
    // The first place of the equals that a place belongs to.
    let mut starts = HashMap::new();
    let (mut start, mut end) = (0, None);
    for (first, last) in ordered {
        if end.is_none_or(|end| first > end) {
            start = first;
        }
        end = end.max(Some(last));
        starts.insert(first, start);
    }
    let score = |token: &String| match spans.get(token) {
        Some((first, _)) => -(starts[first] as f32),
        None => -(merges.len() as f32),
    };
    tokens.iter().map(score).collect()
}

/// What a pre-tokenizer does, step by step: a pattern, or a name for what needs none.
fn add_steps(part: &Value, steps: &mut Vec<String>) {
    if let Some(parts) = part["pretokenizers"].as_array() {
        parts.iter().for_each(|part| add_steps(part, steps));
        return;
    }
    let isolated = part["behavior"] == "Isolated" && part["invert"] == false;
    let step = match part["type"].as_str() {
        Some("Split") if isolated => part["pattern"]["Regex"].as_str(),
        Some("Digits") if part["individual_digits"] == true => Some("digits"),
        Some("ByteLevel") if part["add_prefix_space"] == true => None,
        Some("ByteLevel") if part["use_regex"] == false => Some("bytes"),
        Some("ByteLevel") => Some("bytes by words"),
        _ => None,
    };
    steps.push(step.unwrap_or("unknown").to_string());
}

fn merges(model: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let merges = model["merges"].as_array().into_iter().flatten();
    merges
        .map(|pair| (text(&pair[0]), text(&pair[1])))
        .collect()
}
