//! What can be wrong with soft targets on disk.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ShardError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("{}: there are no soft targets here: no shard-00000.safetensors", path.display())]
    NoShards { path: PathBuf },

    #[error(
        "{}: the shard is missing, {missing} of {shards} shards in all\n\
         hint: remove the stage.json beside this directory and run the capture again: only what is missing is computed",
        path.display()
    )]
    Missing {
        path: PathBuf,
        missing: usize,
        shards: usize,
    },

    #[error(
        "{}: the shard is cut off or no shard at all: {found}\nhint: remove it and the stage.json beside this directory, and run the capture again: only this shard is computed",
        path.display()
    )]
    Truncated { path: PathBuf, found: String },

    #[error(
        "{}: the shard is corrupt: its checksum is {found}, its header says {expected}\n\
         hint: remove it and the stage.json beside this directory, and run the capture again: only this shard is computed",
        path.display()
    )]
    Checksum {
        path: PathBuf,
        expected: String,
        found: String,
    },

    #[error("{}: not a shard of soft targets: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },

    #[error(
        "{}: `{field}` of these soft targets is {captured}, but {wanted} is wanted\n\
         hint: targets belong to the tokens, the context and the temperature that they were captured with; capture them again",
        path.display()
    )]
    Differs {
        path: PathBuf,
        field: &'static str,
        captured: String,
        wanted: String,
    },

    #[error(
        "{}: there are no targets for tokens {start}… of sample {sample}\n\
         hint: capture and training must cut samples alike: the same `sequence_length`, and `packing` that is not \"stream\"",
        path.display()
    )]
    NotStored {
        path: PathBuf,
        sample: u32,
        start: u32,
    },

    #[error(
        "the server tells {found} of the {k} most probable tokens at token {position} of {of}\n\
         hint: lower `k` (of `encoding` in `capture`, of `teacher` in `distill`), or raise the server's limit: `--max-logprobs` of vLLM"
    )]
    FewTokens {
        /// The sample, or the sequence of a batch.
        of: String,
        position: usize,
        found: usize,
        k: usize,
    },

    #[error(
        "what the server tells at token {position} of {of} is no distribution: {problem}\n\
         hint: its log-probabilities must be those of the model as it is, at temperature 1"
    )]
    NoDistribution {
        /// The sample, or the sequence of a batch.
        of: String,
        position: usize,
        problem: String,
    },

    #[error("the teacher's logits at target {target} are not finite numbers")]
    NotFinite { target: u64 },

    #[error("`{key}` is {found}; {expected}")]
    Setting {
        key: &'static str,
        found: String,
        expected: String,
    },
}

impl ShardError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}
