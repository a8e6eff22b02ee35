//! A model behind a server, asked how likely given tokens are.

use std::sync::Arc;

use teacher::given_tokens::GivenTokens;

use super::{Reading, RemoteSubject, SubjectError};
use crate::likelihood::Scored;

/// Requests between two looks at whether to stop, for each that is under way at a time.
const ROUNDS: usize = 8;
/// A server counts the last token of a text, which is only scored, and the one that it has to write.
const BEYOND_CONTEXT: usize = 2;

impl RemoteSubject<'_> {
    pub(super) fn reading(&self) -> Result<Reading<'_>, SubjectError> {
        let (tokenizer, context) = self.tokenizer.as_ref().ok_or(SubjectError::NoTokenizer)?;
        Ok(Reading {
            tokenizer,
            context: context.saturating_sub(BEYOND_CONTEXT),
            vocabulary: tokenizer.vocabulary_size(),
        })
    }

    /// Sequences to score between two looks at whether to stop.
    pub(crate) fn sequences_at_a_time(&self) -> usize {
        ROUNDS * self.concurrency().max(1)
    }

    /// Log-probabilities (nats) of the scored tokens of each sequence, which errors call as they are named; not a number
    /// where the server tells none. `None` when it was stopped from outside.
    ///
    /// # Errors
    /// A server that cannot score tokens, or reads them differently; a budget that is reached.
    pub(crate) fn log_probs(
        &self,
        sequences: &[(String, Scored)],
    ) -> Result<Option<Vec<Vec<f64>>>, SubjectError> {
        let (tokenizer, _) = self.tokenizer.as_ref().ok_or(SubjectError::NoTokenizer)?;
        let ask = |number: usize| {
            let (asker, tokenizer) = (self.asker.clone(), Arc::clone(tokenizer));
            let (of, Scored { ids, first }) = sequences[number].clone();
            async move {
                let given = GivenTokens {
                    of: &of,
                    start: 0,
                    ids: &ids,
                    tokenizer: &tokenizer,
                };
                let told = given.ask(&asker, None).await?.into_iter().skip(first);
                Ok(told
                    .map(|token| token.logprob.unwrap_or(f64::NAN))
                    .collect())
            }
        };
        self.ask_all(sequences.len(), &ask)
    }
}
