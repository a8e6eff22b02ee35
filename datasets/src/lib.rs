//! Data for training: files become samples, samples become tokens with a mask, tokens become batches.
//!
//! [`read`] turns files into [`sample`]s; a [`tokenizer`] and a [`chat_template`] turn samples into ids with a [`mask`];
//! a [`cache`] keeps them on disk; [`packing`] lays them into rows, and a [`loader`] gives each [`batch`] by its number.
//! Filters ([`filter`], [`dedup`], [`decontaminate`]) stream data through and leave what they keep and what they dropped.
//! Nothing here knows tensors or the network.

mod alphabet;
pub mod answers;
pub mod batch;
pub mod cache;
pub mod chat_template;
mod chunks;
pub mod config;
pub mod decontaminate;
pub mod dedup;
pub mod error;
pub mod files;
pub mod filter;
pub mod forest;
pub mod gguf_tokenizer;
mod gguf_vocabulary;
mod guard;
mod jinja;
mod layout;
pub mod loader;
pub mod mask;
pub mod mixture;
pub mod packing;
pub mod pieces;
pub mod preference;
pub mod python;
mod question;
pub mod random;
pub mod read;
pub mod records;
pub mod rouge;
pub mod sample;
pub mod scan;
pub mod selection;
pub mod sequence;
mod space_prefix;
pub mod template_tokens;
pub mod texts;
pub mod token_estimate;
pub mod tokenizer;
pub mod tokenizer_files;
mod turns;
pub mod words;
