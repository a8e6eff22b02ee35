//! The teacher as the trainer sees it.

use datasets::tokenizer::Tokenizer;
use model::batch::TokenBatch;

use crate::error::TeacherError;
use crate::signal::Signal;

/// A source of signals for batches of tokens. Its parameters never change.
pub trait Teacher: Sync {
    /// The signal for every token of a batch; `layers` asks for outputs of layers, in [`LayerStates`]' numbering:
    /// 0 is the embedding, i the output of block i.
    ///
    /// [`LayerStates`]: model::decoder::LayerStates
    ///
    /// # Errors
    /// When a token or a layer does not exist.
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError>;

    /// What its token ids mean; [`crate::vocabulary::compare`] holds it against the student's.
    fn vocabulary(&self) -> Vocabulary<'_>;
}

/// The tokens of a model and the rows of its head, which may be more.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary<'a> {
    pub tokenizer: &'a Tokenizer,
    pub rows: usize,
}
