//! Data for training: files become samples, samples become tokens with a mask, tokens become batches.

pub mod config;
pub mod error;
mod layout;
pub mod random;
pub mod read;
pub mod sample;
pub mod gguf_tokenizer;
pub mod tokenizer;
mod tokenizer_files;
