//! Targets from the log-probabilities that a server has told with the answers that it wrote.
//!
//! A server names a token by its text, by its bytes or by its id. What it has told belongs to a token of ours when the tokens
//! of its answer are those that our tokenizer makes of the same text; else to none.

use std::collections::{HashMap, HashSet};

use datasets::mask::TokenizedSample;
use datasets::tokenizer::Tokenizer;
use half::f16;
use serde::{Deserialize, Serialize};

use super::encoding::TopK;
use super::record::write_top_k;
use super::remote_capture::target_of_list;
use super::shard_file::Target;
use crate::remote::answer::TokenLogprob;
use crate::remote::request::Sampling;

/// How what was told becomes targets.
pub struct AnswerTargets {
    /// The one that the data was tokenised with.
    pub tokenizer: Tokenizer,
    top: TopK,
    vocabulary: usize,
    by_bytes: HashMap<Vec<u8>, u32>,
}

/// What became of the answers of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCounts {
    pub answers: usize,
    /// Answers of which no log-probabilities are stored.
    pub not_told: usize,
    /// Answers whose tokens are others for the server than for our tokenizer.
    pub other_tokens: usize,
    /// What the first of these says instead.
    pub example: Option<String>,
    /// Tokens that are learned, and how many of them have a target.
    pub tokens: usize,
    pub with_target: usize,
}

/// Why an answer has no targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untold {
    NoLogprobs,
    /// What differs.
    OtherTokens(String),
    /// What is wrong with the probabilities: they are not those of the model as it is.
    NoDistribution(String),
}

/// Whether the log-probabilities of an answer that was drawn so are those of the model as it is, whatever the server: some tell
/// what is left after the temperature and `top_p`, which at temperatures 0 and 1 changes nothing.
pub fn tells_the_model(sampling: &Sampling) -> bool {
    sampling.temperature == 0.0 || (sampling.temperature == 1.0 && sampling.top_p == 1.0)
}

impl AnswerTargets {
    pub fn new(tokenizer: Tokenizer, top: TopK, vocabulary: usize) -> Self {
        let mut by_bytes = HashMap::new();
        // Of tokens with the same bytes the first counts, and one that is no special token before one that is.
        let is_special = |id: &u32| tokenizer.is_special(*id);
        let (special, plain): (Vec<u32>, Vec<u32>) = (0..vocabulary as u32).partition(is_special);
        for id in plain.into_iter().chain(special) {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if !bytes.is_empty() {
                by_bytes.entry(bytes).or_insert(id);
            }
        }
        Self {
            tokenizer,
            top,
            vocabulary,
            by_bytes,
        }
    }

    /// For each token of a sample that is learned its target, or none where nothing is known of it. What was told is of the
    /// last answer.
    ///
    /// # Errors
    /// Why nothing is known of any.
    pub fn of_answer(
        &self,
        sample: &TokenizedSample,
        told: &[TokenLogprob],
    ) -> Result<Vec<Option<Target>>, Untold> {
        let learned = |at: &usize| sample.supervised[*at];
        let mut targets = vec![None; sample.ids.len()];
        if told.is_empty() {
            return Err(Untold::NoLogprobs);
        }
        let end = (0..sample.ids.len())
            .rev()
            .find(learned)
            .map_or(0, |last| last + 1);
        let start = (0..end)
            .rev()
            .find(|at| !learned(at))
            .map_or(0, |before| before + 1);
        let mut at = start;
        for (number, entry) in told.iter().enumerate() {
            let tokens = self.covered(&sample.ids[at..end], entry);
            if tokens == 0 {
                let ours = match sample.ids.get(at).filter(|_| at < end) {
                    Some(id) => format!("{:?}", self.text(*id)),
                    None => "the end".to_string(),
                };
                let theirs = &entry.token;
                let differs =
                    format!("token {number} is {ours} here and {theirs:?} for the server");
                return Err(Untold::OtherTokens(differs));
            }
            at += tokens;
            targets[at - 1] = self.target(sample.ids[at - 1], entry)?;
        }
        // Some servers say nothing of the token that ends a turn, and an answer that is cut has none.
        if let Some(id) =
            (sample.ids[at..end].iter()).find(|id| !self.tokenizer.eos_ids().contains(*id))
        {
            let says = format!("the server's answer ends before {:?}", self.text(*id));
            return Err(Untold::OtherTokens(says));
        }
        let mut learned = sample.supervised.iter();
        targets.retain(|_| learned.next().copied().unwrap_or(false));
        Ok(targets)
    }

    /// The target of a position that nothing is known of.
    pub fn unknown(&self) -> Target {
        let mut record = Vec::new();
        write_top_k(&self.top, self.vocabulary, &[], &[], 0.0, &mut record);
        Target {
            entropy: f16::NAN,
            record,
        }
    }

    fn text(&self, id: u32) -> String {
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many of our next tokens the entry is; 0 when it is another. Of a character that is made of several tokens some
    /// servers (llama.cpp) tell the last alone, with all its bytes.
    fn covered(&self, ours: &[u32], entry: &TokenLogprob) -> usize {
        let Some(&first) = ours.first() else {
            return 0;
        };
        if self.is_told(first, entry) {
            return 1;
        }
        let whole = entry.bytes.as_deref().unwrap_or(entry.token.as_bytes());
        let mut joined = Vec::new();
        for (at, &id) in ours.iter().enumerate() {
            joined.extend(self.tokenizer.token_bytes(id).unwrap_or_default());
            if joined == whole {
                return if entry.id == Some(id) { at + 1 } else { 0 };
            }
            if !whole.starts_with(&joined) {
                return 0;
            }
        }
        0
    }

    /// Whether an entry is our token.
    fn is_told(&self, ours: u32, entry: &TokenLogprob) -> bool {
        if named_by_id(&entry.token) {
            return entry.id == Some(ours);
        }
        let bytes = self.tokenizer.token_bytes(ours).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        match entry.bytes.as_deref() {
            Some(told) if told == bytes => return true,
            // A part of a character has no text of its own.
            None if text == entry.token => return true,
            _ => {}
        }
        let is_same_id = entry.id.is_none_or(|id| id == ours);
        let is_hidden = entry.token.is_empty() && self.tokenizer.is_special(ours);
        // The space before the first word of a text, which some tokenizers hide.
        let is_trimmed = entry.id.is_some() && text.trim_start() == entry.token.trim_start();
        is_same_id && (is_hidden || is_trimmed)
    }

    /// Our token of an entry of a list.
    fn listed(&self, token: &str, bytes: Option<&[u8]>, id: Option<u32>) -> Option<u32> {
        let spelled = bytes.unwrap_or(token.as_bytes());
        let is_ours = |id: &u32| {
            let ours = self.tokenizer.token_bytes(*id).unwrap_or_default();
            ours == spelled
                || (bytes.is_none() && String::from_utf8_lossy(&ours) == token)
                || (spelled.is_empty() && self.tokenizer.is_special(*id))
        };
        let id = id.filter(|id| (*id as usize) < self.vocabulary);
        if named_by_id(token) || token.is_empty() && bytes.is_none() {
            return id.filter(|id| named_by_id(token) || is_ours(id));
        }
        // A part of a character without its bytes may be any of many tokens.
        let is_part = bytes.is_none() && token.contains('\u{fffd}');
        (id.filter(is_ours)).or_else(|| self.by_bytes.get(spelled).copied().filter(|_| !is_part))
    }

    /// What is no token of ours belongs to the tail.
    fn target(&self, ours: u32, entry: &TokenLogprob) -> Result<Option<Target>, Untold> {
        let own = entry.logprob.map(|logprob| (ours, logprob));
        let top = entry.top.iter().filter_map(|other| {
            let id = self.listed(&other.token, other.bytes.as_deref(), other.id)?;
            Some((id, other.logprob))
        });
        let mut best: Vec<(u32, f64)> = own.into_iter().chain(top).collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut seen = HashSet::new();
        best.retain(|(id, _)| seen.insert(*id));
        best.truncate(self.top.k as usize);
        if best.is_empty() {
            return Ok(None);
        }
        target_of_list(self.top, self.vocabulary, best)
            .map(Some)
            .map_err(Untold::NoDistribution)
    }
}

fn named_by_id(token: &str) -> bool {
    token.starts_with("token_id:")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::remote::answer::read_logprobs;
    use crate::shards::Encoding;
    use crate::shards::record::RecordReader;
    use crate::sparse_targets::SparseTargets;

    /// Bytes of Hangul in three tokens, a word in one, an end of the turn.
    fn tokenizer() -> Tokenizer {
        let vocab =
            json!({ "<unk>": 0, "ì": 1, "ķ": 2, "Ī": 3, "Hi": 4, "Ġyou": 5, "H": 6, "i": 7 });
        let json = json!({
            "version": "1.0",
            "added_tokens": [{
                "id": 8, "content": "<end>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            }],
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true },
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true },
            "model": { "type": "BPE", "vocab": vocab, "merges": [] },
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        let mut tokenizer = Tokenizer::from_file(&path).unwrap();
        tokenizer.add_eos_ids(&[8]);
        tokenizer
    }

    fn answer_targets() -> AnswerTargets {
        AnswerTargets::new(tokenizer(), TopK { k: 4, bits: 16 }, 9)
    }

    /// A question of one token, then an answer.
    fn sample(answer: &[u32]) -> TokenizedSample {
        let ids: Vec<u32> = [6].iter().chain(answer).copied().collect();
        let supervised = (0..ids.len()).map(|at| at > 0).collect();
        TokenizedSample {
            ids,
            supervised,
            splittable: false,
        }
    }

    fn read(targets: &AnswerTargets, found: &[Option<Target>]) -> SparseTargets {
        let mut read = SparseTargets::new(9);
        let reader = RecordReader::new(Encoding::TopK(targets.top), 9);
        for target in found {
            let target = target.clone().unwrap_or_else(|| targets.unknown());
            reader.read(&target.record, 0.0, &mut read).unwrap();
        }
        read
    }

    #[test]
    fn tokens_are_found_by_their_bytes_and_others_join_the_tail() {
        let targets = answer_targets();
        let told = read_logprobs(&json!({ "content": [
            { "token": "Hi", "bytes": [72, 105], "logprob": 0.5_f64.ln(), "top_logprobs": [
                { "token": "Hi", "bytes": [72, 105], "logprob": 0.5_f64.ln() },
                { "token": "H", "bytes": [72], "logprob": 0.2_f64.ln() },
                { "token": "Hey", "bytes": [72, 101, 121], "logprob": 0.1_f64.ln() },
                { "token": "\u{fffd}", "bytes": [236], "logprob": 0.05_f64.ln() },
            ] },
            { "token": " you", "bytes": null, "logprob": -0.25, "top_logprobs": [] },
            { "id": 8, "token": "", "bytes": [], "logprob": 0.9_f64.ln(), "top_logprobs": [
                { "id": 8, "token": "", "bytes": [], "logprob": 0.9_f64.ln() },
            ] },
        ] }));
        let found = targets.of_answer(&sample(&[4, 5, 8]), &told).unwrap();
        let read = read(&targets, &found);
        assert_eq!(read.entries(0).0, [1, 4, 6]);
        for (p, expected) in read.entries(0).1.iter().zip([0.05, 0.5, 0.2]) {
            assert!((p - expected).abs() < 1e-3, "{p} {expected}");
        }
        assert!((read.tails[0] - 0.25).abs() < 1e-3);
        assert_eq!((read.entries(1).0, read.entries(2).0), (&[5][..], &[8][..]));
        assert!((read.tails[2] - 0.1).abs() < 1e-3);
        // The end of the turn need not be told, and then has no target.
        let found = targets.of_answer(&sample(&[4, 5, 8]), &told[..2]).unwrap();
        assert!(found[1].is_some() && found[2].is_none());
    }

    #[test]
    fn a_character_of_several_tokens() {
        let targets = answer_targets();
        // As OpenAI tells it, and as llama.cpp does.
        let split = json!({ "content": [
            { "token": "\\xec", "bytes": [236], "logprob": -0.5 },
            { "token": "\\x95", "bytes": [149], "logprob": -0.25 },
            { "token": "\\x88", "bytes": [136], "logprob": -0.125 },
        ] });
        let joined = json!({ "content": [
            { "id": 3, "token": "안", "bytes": [236, 149, 136], "logprob": -0.125, "top_logprobs": [
                { "id": 3, "token": "\u{fffd}", "bytes": [136], "logprob": -0.125 },
                { "id": 2, "token": "\u{fffd}", "bytes": [149], "logprob": -2.5 },
            ] },
        ] });
        for (told, known) in [(split, [true; 3]), (joined, [false, false, true])] {
            let told = read_logprobs(&told);
            let found = targets.of_answer(&sample(&[1, 2, 3]), &told).unwrap();
            assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), known);
            let read = read(&targets, &found);
            assert_eq!(read.entries(2).0.last(), Some(&3));
            assert!((read.entries(2).1.last().unwrap() - (-0.125_f32).exp()).abs() < 1e-3);
        }
    }

    #[test]
    fn other_tokens_of_the_same_text_are_told() {
        let targets = answer_targets();
        let told = |tokens: &[&str]| -> Vec<TokenLogprob> {
            let entry = |token: &&str| json!({ "token": token, "logprob": -0.5 });
            read_logprobs(&json!({ "content": tokens.iter().map(entry).collect::<Vec<_>>() }))
        };
        let why = |tokens: &[&str]| targets.of_answer(&sample(&[4, 5, 8]), &told(tokens)).err();
        assert_eq!(why(&[]), Some(Untold::NoLogprobs));
        for (tokens, says) in [
            (&["H", "i", " you"][..], "token 0 is \"Hi\" here and \"H\""),
            (&["Hi"], "ends before \" you\""),
            (
                &["Hi", " you", "<end>", "!"],
                "token 3 is the end here and \"!\"",
            ),
        ] {
            let Some(Untold::OtherTokens(found)) = why(tokens) else {
                panic!("{tokens:?}");
            };
            assert!(found.contains(says), "{found}");
        }
        let named = read_logprobs(&json!({ "content": [
            { "token": "token_id:4", "logprob": -0.5, "top_logprobs": [{ "token": "token_id:6", "logprob": -1.5 }] },
            { "token": "token_id:5", "logprob": -0.5 },
        ] }));
        let found = targets.of_answer(&sample(&[4, 5, 8]), &named).unwrap();
        assert_eq!(read(&targets, &found).entries(0).0, [4, 6]);
        let mut more = named.clone();
        more[0].top[0].logprob = 0.5;
        let error = targets.of_answer(&sample(&[4, 5, 8]), &more).unwrap_err();
        assert!(matches!(error, Untold::NoDistribution(_)), "{error:?}");
    }
}
