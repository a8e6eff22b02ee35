//! Soft targets on disk: what a teacher says of every token that is learned, computed once.
//!
//! A directory holds shards, each a safetensors file that describes itself: which teacher, tokenizer, template and data,
//! how it is encoded, at which temperature, a checksum. Targets are kept in the order of the tokenised data, sample by
//! sample and piece by piece, not by batch: any order, batch size and number of epochs finds them. A long sample is cut by
//! the sequence length, and that decides what stands before a token; so the sequence length is part of the description.
//!
//! - [`encoding`]: what is kept of a position; [`record`] and [`bits`]: as bytes.
//! - [`distribution`]: a row of logits as a distribution: entropy, its largest entries, draws from it.
//! - [`plan`]: which pieces make up which shard; [`capture`]: a teacher's targets for them; [`remote_capture`]: those of
//!   a teacher behind a server.
//! - [`answer_targets`]: what a server told with the answers that it wrote.
//! - [`header`]: what a shard says of itself; [`shard_file`]: one file.
//! - [`soft_targets`]: all shards of a directory, found by batch.

pub mod answer_targets;
pub mod bits;
pub mod capture;
pub mod distribution;
pub mod encoding;
mod error;
pub mod header;
pub mod plan;
pub mod record;
pub mod remote_capture;
pub mod shard_file;
pub mod soft_targets;

pub use encoding::Encoding;
pub use error::ShardError;
pub use header::{Description, Header};
pub use soft_targets::SoftTargets;
