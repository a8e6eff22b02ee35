//! The tokenizer that belongs to a model's files.

use std::path::Path;

use datasets::tokenizer::Tokenizer;
use model::weights::checkpoint::{Checkpoint, TokenizerSource};
use model::weights::gguf_vocabulary::GgufVocabulary;

use crate::error::TeacherError;

/// Reads the tokenizer of an open model, from its directory or from its GGUF metadata. End-of-sequence tokens that
/// the model's configuration names join the tokenizer's own.
///
/// # Errors
/// [`TeacherError::NoTokenizer`], [`TeacherError::TokenizerMismatch`], or what is wrong with the tokenizer's file.
pub fn load_tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, TeacherError> {
    let mut tokenizer = match checkpoint.tokenizer_source()? {
        TokenizerSource::Directory(directory) => {
            if !directory.join("tokenizer.json").exists() {
                let path = checkpoint.path().to_owned();
                return Err(TeacherError::NoTokenizer { path });
            }
            Tokenizer::from_directory(&directory)?
        }
        TokenizerSource::Gguf(vocabulary) => Tokenizer::from_gguf(plain(*vocabulary))?,
        TokenizerSource::Absent => {
            let path = checkpoint.path().to_owned();
            return Err(TeacherError::NoTokenizer { path });
        }
    };
    let config = checkpoint.config();
    check_fit(checkpoint.path(), &tokenizer, config.vocab_size)?;
    let named = &config.eos_token_ids;
    if named.iter().any(|id| !tokenizer.eos_ids().contains(id)) {
        tokenizer.add_eos_ids(named);
    }
    Ok(tokenizer)
}

/// The tokenizer, or none for a model without one, which can still be fed token ids.
///
/// # Errors
/// As [`load_tokenizer`], but for [`TeacherError::NoTokenizer`].
pub fn optional_tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, TeacherError> {
    match load_tokenizer(checkpoint) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(TeacherError::NoTokenizer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks that every token has a row in a model of `rows` rows. More rows than tokens are usual.
///
/// # Errors
/// [`TeacherError::TokenizerMismatch`], which names `path`.
pub fn check_fit(path: &Path, tokenizer: &Tokenizer, rows: usize) -> Result<(), TeacherError> {
    let tokens = tokenizer.vocabulary_size();
    if tokens <= rows {
        return Ok(());
    }
    Err(TeacherError::TokenizerMismatch {
        path: path.to_owned(),
        tokens,
        rows,
    })
}

/// The same values in the type of the crate that builds tokenizers.
fn plain(vocabulary: GgufVocabulary) -> datasets::gguf_tokenizer::GgufVocabulary {
    datasets::gguf_tokenizer::GgufVocabulary {
        model: vocabulary.model,
        pre: vocabulary.pre,
        tokens: vocabulary.tokens,
        merges: vocabulary.merges,
        scores: vocabulary.scores,
        // A negative type says no more than 0, "undefined".
        token_types: (vocabulary.token_types.iter())
            .map(|&kind| u32::try_from(kind).unwrap_or(0))
            .collect(),
        bos: vocabulary.bos,
        eos: vocabulary.eos,
        pad: vocabulary.pad,
        unk: vocabulary.unk,
        add_bos: vocabulary.add_bos,
        add_eos: vocabulary.add_eos,
        add_space_prefix: vocabulary.add_space_prefix,
        chat_template: vocabulary.chat_template,
    }
}

/// The vocabulary that a GGUF file of a model of `rows` rows carries.
///
/// # Errors
/// A tokenizer that the format has no words for.
pub fn gguf_vocabulary(tokenizer: &Tokenizer, rows: usize) -> Result<GgufVocabulary, TeacherError> {
    let vocabulary = tokenizer.to_gguf(rows)?;
    Ok(GgufVocabulary {
        model: vocabulary.model,
        pre: vocabulary.pre,
        tokens: vocabulary.tokens,
        merges: vocabulary.merges,
        scores: vocabulary.scores,
        token_types: (vocabulary.token_types.iter())
            .map(|&kind| kind as i32)
            .collect(),
        bos: vocabulary.bos,
        eos: vocabulary.eos,
        pad: vocabulary.pad,
        unk: vocabulary.unk,
        add_bos: vocabulary.add_bos,
        add_eos: vocabulary.add_eos,
        add_space_prefix: vocabulary.add_space_prefix,
        chat_template: vocabulary.chat_template,
    })
}
