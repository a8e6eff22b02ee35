//! Writes models as other programs read them.

mod gguf;
mod gptq;
mod peft;
mod safetensors;
mod verify;

use std::path::Path;

use anyhow::Result;
use burn::tensor::DType;
use datasets::tokenizer::Tokenizer;
use model::config::DecoderConfig;
use model::decoder::Decoder;
use model::linear::lora::BaseForm;
use model::weights::checkpoint::Checkpoint;
use model::weights::error::WeightsError;
use model::weights::hf_directory::NamedTensor;
use model::weights::quantization::Quantization;
use model::weights::staged_directory::StagedDirectory;
use model::weights::staged_file::StagedFile;
use teacher::tokenizer::optional_tokenizer;

pub use gguf::other_types;
pub use verify::{VerifyText, verify};

use crate::recipe::ExportFormat;

/// A model to export.
pub struct ExportSource {
    pub weights: Weights,
    /// In place of the one that the files have.
    pub tokenizer: Option<Tokenizer>,
}

pub enum Weights {
    /// Read tensor by tensor.
    Stored(Box<Checkpoint>),
    Made(Box<Decoder>),
}

/// What is written and has not taken its place yet.
pub enum Written {
    Directory(StagedDirectory),
    File(StagedFile),
}

impl ExportSource {
    pub fn config(&self) -> &DecoderConfig {
        match &self.weights {
            Weights::Stored(checkpoint) => checkpoint.config(),
            Weights::Made(decoder) => &decoder.config,
        }
    }

    /// The files' own tokenizer, where no other takes its place; none for a model that can be fed token ids only.
    fn own_tokenizer(&self) -> Result<Option<Tokenizer>> {
        match (&self.tokenizer, &self.weights) {
            (None, Weights::Stored(checkpoint)) => Ok(optional_tokenizer(checkpoint)?),
            _ => Ok(None),
        }
    }

    fn tensor(&self, name: &str) -> Result<NamedTensor, WeightsError> {
        match &self.weights {
            Weights::Stored(checkpoint) => {
                let tensor = checkpoint.tensor(name)?;
                Ok((name.to_owned(), tensor.shape, tensor.data))
            }
            Weights::Made(decoder) => {
                let parameter = decoder
                    .parameters()
                    .find(|parameter| parameter.name == name)
                    .expect("a decoder has the tensors of its configuration");
                let values = parameter.value.clone().cast(DType::F32).into_data();
                let values = values.try_to_vec().expect("the parameter was cast to f32");
                Ok((name.to_owned(), parameter.shape.clone(), values))
            }
        }
    }

    /// Writes the model aside, one tensor in memory at a time; a format that has room for a name says `name`. Words about
    /// what was done go to stderr.
    ///
    /// # Errors
    /// When the target is taken, when a weight has no place in the format, when the disk is full.
    pub fn write(&self, name: &str, format: &ExportFormat, target: &Path) -> Result<Written> {
        let is_nf4 = |checkpoint: &Checkpoint| checkpoint.base_form() == BaseForm::Nf4;
        if let (Weights::Stored(checkpoint), false) =
            (&self.weights, matches!(format, ExportFormat::Peft { .. }))
            && is_nf4(checkpoint)
        {
            tracing::info!("the adapter is merged into the values of its NF4 base");
        }
        if let Weights::Stored(checkpoint) = &self.weights
            && checkpoint.adapter().is_none()
            && (checkpoint.quantization()).is_some_and(Quantization::rounds_activations)
        {
            tracing::warn!(
                "only weights are exported: the rounding of activations is lost, and `verify` compares without it"
            );
        }
        match format {
            ExportFormat::Safetensors { dtype } => {
                safetensors::write(self, target, *dtype).map(Written::Directory)
            }
            ExportFormat::Peft { dtype } => {
                peft::write(self, target, *dtype).map(Written::Directory)
            }
            ExportFormat::Gptq { dtype } => {
                gptq::write(self, target, *dtype).map(Written::Directory)
            }
            ExportFormat::Gguf { kind } => {
                gguf::write(self, name, target, *kind).map(Written::File)
            }
        }
    }
}

impl Written {
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(staged) => staged.path(),
            Self::File(staged) => staged.path(),
        }
    }

    /// Puts it in its place.
    pub fn commit(self) -> Result<()> {
        match self {
            Self::Directory(staged) => staged.commit()?,
            Self::File(staged) => staged.commit()?,
        }
        Ok(())
    }
}
