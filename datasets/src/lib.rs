//! Data for training: files become samples, samples become tokens with a mask, tokens become batches.

pub mod batch;
pub mod cache;
pub mod chat_template;
pub mod config;
pub mod error;
pub mod gguf_tokenizer;
mod layout;
pub mod loader;
pub mod mask;
pub mod mixture;
pub mod packing;
pub mod random;
pub mod read;
pub mod sample;
pub mod tokenizer;
mod tokenizer_files;
