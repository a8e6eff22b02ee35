//! Model files: GGUF and Hugging Face directories, read into plain `Vec<f32>` and written back.
//!
//! [`Checkpoint`](checkpoint::Checkpoint) is the one way in, whatever the format:
//! [`write_hf_directory`](hf_directory::write_hf_directory) and
//! [`write_gguf`](gguf_writer::write_gguf) the ways out. Tensors bear Hugging
//! Face's names and row-major shapes everywhere; [`names`] translates.
//!
//! Files are mapped into memory, never read whole: changing one while it is open gives wrong
//! values, and truncating it ends the process. Nothing in a file is trusted: every count, length
//! and offset is checked against the file before it is used.

pub mod checkpoint;
mod config_check;
pub mod dtype;
pub mod error;
pub mod gguf;
pub mod gguf_config;
mod gguf_cursor;
mod gguf_keys;
mod gguf_layout;
pub mod gguf_metadata;
pub mod gguf_types;
pub mod gguf_value;
pub mod gguf_vocabulary;
pub mod gguf_writer;
pub mod gptq_directory;
pub mod gptq_layout;
pub mod hf_config;
pub mod hf_config_writer;
pub mod hf_directory;
mod json_fields;
mod llama3_frequencies;
mod mapped_file;
mod model_files;
pub mod names;
pub mod peft;
mod peft_config;
pub mod quantization;
mod quantization_reader;
pub mod safetensors;
mod safetensors_header;
pub mod safetensors_writer;
mod shards;
pub mod staged_directory;
pub mod staged_file;

#[cfg(test)]
mod broken_file_tests;
#[cfg(test)]
mod gguf_writer_tests;
#[cfg(test)]
mod quantization_tests;
#[cfg(test)]
pub(crate) mod test_files;
