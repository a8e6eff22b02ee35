//! What can go wrong with a teacher.

use std::path::PathBuf;

use datasets::error::DataError;
use model::weights::error::WeightsError;
use thiserror::Error;

use crate::remote::error::RemoteError;
use crate::shards::ShardError;

#[derive(Debug, Error)]
pub enum TeacherError {
    #[error(transparent)]
    Weights(#[from] WeightsError),

    #[error(transparent)]
    Data(#[from] DataError),

    #[error(transparent)]
    Remote(#[from] RemoteError),

    #[error(transparent)]
    Shards(#[from] ShardError),

    #[error(
        "token {position} of {of} is {ours} here and {theirs} for the server\n\
         hint: `tokenizer` of the remote model must name a model whose tokenizer is the server's own"
    )]
    OtherToken {
        /// The sample, the sequence of a batch, the question.
        of: String,
        position: usize,
        ours: String,
        theirs: String,
    },

    #[error("an answer cannot be written")]
    Record(#[source] std::io::Error),

    #[error("the prompt {}: {problem}", path.display())]
    PromptFile { path: PathBuf, problem: String },

    #[error("{what} needs a remote teacher: a model on this machine has none\nhint: {hint}")]
    OnlyRemote {
        what: &'static str,
        hint: &'static str,
    },

    #[error(
        "{}: the model has no tokenizer: there is no tokenizer.json\n\
         hint: put the tokenizer.json of the original model beside its weights, or work on token ids",
        path.display()
    )]
    NoTokenizer { path: PathBuf },

    #[error(
        "{}: the tokenizer has {tokens} tokens, but the model has {rows} rows of embeddings\n\
         hint: the tokenizer is that of another model",
        path.display()
    )]
    TokenizerMismatch {
        path: PathBuf,
        tokens: usize,
        rows: usize,
    },

    #[error(
        "the teacher's vocabulary differs from the student's: \
         token {id} is {student} for the student and {teacher} for the teacher\n\
         hint: losses over tokens need one vocabulary: take two models of one family, or the loss `universal_logit`, which does not"
    )]
    VocabularyMismatch {
        id: u32,
        student: String,
        teacher: String,
    },

    #[error(
        "the draft's vocabulary differs from the model's: \
         token {id} is {draft} for the draft and {model} for the model\n\
         hint: a draft must share the model's tokenizer; take two models of one family"
    )]
    DraftVocabulary {
        id: u32,
        draft: String,
        model: String,
    },

    #[error("token {id} at position {position} lies beyond the model's {rows} tokens")]
    TokenOutOfRange {
        id: u32,
        position: usize,
        rows: usize,
    },

    #[error("the model has no layer {layer}; it has {layers} (0 is the embedding)")]
    NoLayer { layer: usize, layers: usize },

    #[error(
        "{} has no tokens: there is nothing to continue\n\
         hint: this model's tokenizer opens no text with a token of its own; give at least one word", named(*.number)
    )]
    EmptyPrompt { number: Option<usize> },

    #[error(
        "{} has {tokens} tokens, which leaves no room in the model's context of {context}\n\
         hint: shorten the prompt", named(*.number)
    )]
    PromptTooLong {
        /// From 1, of several.
        number: Option<usize>,
        tokens: usize,
        context: usize,
    },

    #[error("{0}")]
    Sampling(String),

    #[error("a stop string is empty: it would end every text before it begins")]
    EmptyStop,
}

fn named(number: Option<usize>) -> String {
    number.map_or_else(|| "the prompt".into(), |number| format!("prompt {number}"))
}
