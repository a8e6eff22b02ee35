//! Targets of a teacher behind a server, which tells the most probable tokens at each place of a text that is given.
//!
//! Each piece of a sample is one request: its ids as they are, so that a token has the same context as in training.

use std::ops::Range;

use datasets::batch::Batch;
use datasets::mixture::Corpus;
use datasets::pieces::PieceList;
use datasets::tokenizer::Tokenizer;
use half::f16;

use super::encoding::TopK;
use super::record::write_top_k;
use super::shard_file::Target;
use super::{Encoding, ShardError};
use crate::error::TeacherError;
use crate::given_tokens::GivenTokens;
use crate::remote::answer::TopToken;
use crate::remote::error::RemoteError;
use crate::synth::asker::Asker;

/// Sums of rounded probabilities may exceed 1 by so much.
const SLACK: f64 = 1e-3;

/// How answers become targets.
pub struct RemoteCapture {
    /// The one that the data was tokenised with.
    pub tokenizer: Tokenizer,
    pub top: TopK,
    pub vocabulary: usize,
}

/// The tokens of a piece up to the last one that is learned.
#[derive(Debug, Clone)]
pub struct PieceTokens {
    /// The sample or the sequence, as errors call it.
    of: String,
    /// The place of the first token in its sample.
    start: usize,
    ids: Vec<u32>,
    /// Which of them are learned; never the first.
    learned: Vec<usize>,
}

impl PieceTokens {
    /// Piece `number` (below the list's length).
    pub fn of(corpus: &Corpus, pieces: &PieceList, number: usize) -> Self {
        let piece = pieces.piece(number);
        let sample = corpus.sample(piece.sample as usize);
        let start = piece.start as usize;
        let learned: Vec<usize> = (piece.predicted())
            .filter(|token| sample.supervised[*token] != 0)
            .map(|token| token - start)
            .collect();
        let end = learned.last().map_or(0, |last| last + 1);
        Self {
            of: format!("sample {}", piece.sample),
            start,
            ids: sample.ids[start..start + end].to_vec(),
            learned,
        }
    }
}

impl PieceTokens {
    /// Sequence `number` of a batch.
    pub fn in_batch(batch: &Batch, number: u32, cells: Range<usize>) -> Self {
        let learned: Vec<usize> = (cells.clone())
            .filter(|&cell| batch.supervised[cell])
            .map(|cell| cell + 1 - cells.start)
            .collect();
        let end = learned.last().map_or(0, |last| last + 1);
        Self {
            of: format!("sequence {} of the batch", number + 1),
            start: 0,
            ids: batch.ids[cells.start..cells.start + end].to_vec(),
            learned,
        }
    }
}

impl RemoteCapture {
    /// The targets of a piece, in the order of its tokens.
    ///
    /// # Errors
    /// Those of [`GivenTokens::ask`]; [`ShardError::FewTokens`], [`ShardError::NoDistribution`].
    pub async fn targets(
        &self,
        asker: &Asker,
        piece: &PieceTokens,
    ) -> Result<Vec<Target>, TeacherError> {
        if piece.learned.is_empty() {
            return Ok(Vec::new());
        }
        let given = GivenTokens {
            of: &piece.of,
            start: piece.start,
            ids: &piece.ids,
            tokenizer: &self.tokenizer,
        };
        let tokens = given.ask(asker, Some(self.top.k)).await?;
        (piece.learned.iter())
            .map(|&at| {
                let top = tokens.get(at).map_or(&[][..], |token| &token.top);
                self.target(&piece.of, piece.start + at, top)
            })
            .collect()
    }

    fn target(&self, of: &str, position: usize, told: &[TopToken]) -> Result<Target, TeacherError> {
        let Some(mut best) = (told.iter())
            .map(|token| Some((token.id?, token.logprob)))
            .collect::<Option<Vec<(u32, f64)>>>()
        else {
            let error = RemoteError::Unable {
                endpoint: "the server".into(),
                what: "tell the most probable tokens by their ids: it names them by their texts, and two may look alike".into(),
                hint: "vLLM can; so can a server whose `echo` with `logprobs` knows `return_tokens_as_token_ids`".into(),
            };
            return Err(error.into());
        };
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        best.dedup_by_key(|(id, _)| *id);
        let encoding = Encoding::TopK(self.top);
        let listed = encoding.listed(self.vocabulary);
        best.truncate(listed);
        if best.len() < listed {
            let (found, k) = (best.len(), listed);
            return Err(ShardError::FewTokens {
                of: of.to_owned(),
                position,
                found,
                k,
            }
            .into());
        }
        let no_distribution = |problem: String| ShardError::NoDistribution {
            of: of.to_owned(),
            position,
            problem,
        };
        if let Some((id, _)) = best.iter().find(|(id, _)| *id as usize >= self.vocabulary) {
            let problem = format!("token {id} lies beyond our {} tokens", self.vocabulary);
            return Err(no_distribution(problem).into());
        }
        let target = target_of_list(self.top, self.vocabulary, best);
        Ok(target.map_err(no_distribution)?)
    }
}

/// A position of which the most probable tokens are known, different ones and at most as many as `top` lists.
///
/// # Errors
/// What is wrong with the probabilities.
pub(super) fn target_of_list(
    top: TopK,
    vocabulary: usize,
    mut best: Vec<(u32, f64)>,
) -> Result<Target, String> {
    let sum: f64 = best.iter().map(|(_, logprob)| logprob.exp()).sum();
    if !(sum > 0.0 && sum <= 1.0 + SLACK) {
        return Err(format!("probabilities of {sum} in all"));
    }
    best.sort_unstable_by_key(|(id, _)| *id);
    let ids: Vec<u32> = best.iter().map(|(id, _)| *id).collect();
    let logs: Vec<f32> = best.iter().map(|(_, logprob)| *logprob as f32).collect();
    let tail = match best.len() < vocabulary {
        true => (1.0 - sum).max(0.0),
        false => 0.0,
    };
    let mut record = Vec::new();
    write_top_k(&top, vocabulary, &ids, &logs, tail, &mut record);
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    let listed: f64 = best.iter().map(|(_, logprob)| term(logprob.exp())).sum();
    Ok(Target {
        entropy: f16::from_f64(listed + term(tail)),
        record,
    })
}
