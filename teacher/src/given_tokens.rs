//! What a server tells of tokens that it is given, after a look at whether it reads them as we do.

use std::borrow::Cow;

use datasets::tokenizer::Tokenizer;

use crate::error::TeacherError;
use crate::remote::answer::TokenLogprob;
use crate::remote::error::RemoteError;
use crate::remote::request::{Given, Input, Request, Sampling};
use crate::synth::asker::Asker;

/// Tokens that are sent by their ids.
pub struct GivenTokens<'a> {
    /// What they are of, as errors call it.
    pub of: &'a str,
    /// The place of the first one there.
    pub start: usize,
    pub ids: &'a [u32],
    /// The one that made them.
    pub tokenizer: &'a Tokenizer,
}

impl GivenTokens<'_> {
    /// The log-probability of each token but the first given all before it, and those of the `top` best at its place.
    ///
    /// # Errors
    /// Those of the asker; [`TeacherError::OtherToken`].
    pub async fn ask(
        &self,
        asker: &Asker,
        top: Option<u32>,
    ) -> Result<Vec<TokenLogprob>, TeacherError> {
        let request = Request {
            input: Input::Given(Given::Ids(self.ids.to_vec())),
            sampling: Sampling::default(),
            candidates: 1,
            top_logprobs: top,
            schema: None,
        };
        let answer = match asker.ask(&request).await {
            Ok(asked) => asked.answer,
            Err(TeacherError::Remote(RemoteError::OtherTokens {
                position,
                sent,
                told,
                ..
            })) => return Err(self.other(position, sent, told)),
            Err(error) => return Err(error),
        };
        let told = answer.choices.into_iter().next().unwrap_or_default();
        let told = told.logprobs;
        for (at, (&id, token)) in self.ids.iter().zip(&told).enumerate() {
            let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
            let ours = String::from_utf8_lossy(&bytes);
            if !reads_alike(&ours, &token.token) {
                let (ours, theirs) = (
                    format!("token {id}, {ours:?},"),
                    format!("{:?}", token.token),
                );
                return Err(self.other(at, ours, theirs));
            }
        }
        Ok(told)
    }

    fn other(&self, at: usize, ours: String, theirs: String) -> TeacherError {
        TeacherError::OtherToken {
            of: self.of.to_owned(),
            position: self.start + at,
            ours,
            theirs,
        }
    }
}

/// Whether a token may be the same, as far as one can tell from its texts.
fn reads_alike(ours: &str, theirs: &str) -> bool {
    let is_whole = |text: &str| !text.trim().is_empty() && !text.contains('\u{fffd}');
    let is_same = |theirs: &str| !is_whole(theirs) || ours.trim() == theirs.trim();
    theirs.starts_with("token_id:") || !is_whole(ours) || is_same(theirs) || is_same(&plain(theirs))
}

/// A token as text, where a server writes it as its vocabulary does.
fn plain(token: &str) -> Cow<'_, str> {
    match token.contains(['Ġ', 'Ċ', '▁']) {
        true => Cow::Owned(token.replace(['Ġ', '▁'], " ").replace('Ċ', "\n")),
        false => Cow::Borrowed(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_may_write_a_token_in_their_ways() {
        for theirs in [
            " mill",
            "mill",
            "Ġmill",
            "▁mill",
            "token_id:7",
            "",
            "\u{fffd}",
        ] {
            assert!(reads_alike(" mill", theirs), "{theirs}");
        }
        assert!(!reads_alike(" mill", "Ġmills"));
        assert!(reads_alike("\u{fffd}", "x"));
    }
}
