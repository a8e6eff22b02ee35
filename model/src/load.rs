//! A decoder from a checkpoint, from nothing, and back to a directory.

use burn::tensor::{DType, Device};

use crate::build::{Found, Placement, build};
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::linear::lora::BaseForm;
use crate::random::normal_values;
use crate::weights::checkpoint::Checkpoint;
use crate::weights::dtype::WeightDtype;
use crate::weights::error::WeightsError;
use crate::weights::hf_directory::{DEFAULT_MAX_SHARD_BYTES, write_hf_files};
use crate::weights::names::is_linear;
use crate::weights::staged_directory::StagedDirectory;

/// Standard deviation of a fresh matrix's values, as transformers initialises Llama.
pub(crate) const INITIALIZER_RANGE: f64 = 0.02;

/// Reads every tensor of a checkpoint, one at a time, into arrays that can be trained.
///
/// # Errors
/// What [`Checkpoint::tensor`] says of a missing, misshapen or unreadable tensor.
pub fn load_decoder(
    checkpoint: &Checkpoint,
    placement: &Placement,
) -> Result<Decoder, WeightsError> {
    build(checkpoint.config(), placement, |name, _| {
        Ok(Found::Values(checkpoint.tensor(name)?.data))
    })
}

/// The name under which a model's adapter is at work.
pub const ADAPTER: &str = "default";

/// A decoder that is only read. On the CPU its matrices stay in the blocks of their file, and memory is about the
/// file's size; other devices hold them dense. An adapter is put to work beside its base. A quantised model
/// without an adapter rounds the inputs of its layers as it says it does.
///
/// # Errors
/// As [`load_base`].
pub fn load_frozen_decoder(
    checkpoint: &Checkpoint,
    placement: &Placement,
) -> Result<Decoder, WeightsError> {
    load_frozen_decoder_as(checkpoint, placement, checkpoint.base_form())
}

/// As [`load_frozen_decoder`], with the matrices held in `form`.
///
/// # Errors
/// As [`load_base`].
pub fn load_frozen_decoder_as(
    checkpoint: &Checkpoint,
    placement: &Placement,
    form: BaseForm,
) -> Result<Decoder, WeightsError> {
    let mut decoder = load_base(checkpoint, placement, form)?;
    // An adapter was trained beside a base that rounds nothing.
    match (checkpoint.adapter(), checkpoint.quantization()) {
        (Some(adapter), _) => adapter.attach(ADAPTER, &mut decoder),
        (None, Some(quantization)) => {
            for linear in decoder.linears_mut() {
                linear.activations = quantization.activations(linear.module()).cloned();
            }
        }
        (None, None) => {}
    }
    Ok(decoder)
}

/// A decoder whose matrices are held in `form`, without the checkpoint's adapter. Tensors are read one at a time.
///
/// # Errors
/// As [`load_decoder`]; also when a matrix cannot be held in this form.
pub fn load_base(
    checkpoint: &Checkpoint,
    placement: &Placement,
    form: BaseForm,
) -> Result<Decoder, WeightsError> {
    let packs = placement.device == Device::flex() && placement.compute == DType::F32;
    build(checkpoint.config(), placement, |name, shape| {
        if form == BaseForm::Nf4 && is_linear(name) {
            return Ok(Found::Packed(checkpoint.base_nf4(name, &placement.device)?));
        }
        if packs
            && form != BaseForm::F32
            && shape.len() == 2
            && let Some(packed) = checkpoint.base_packed(name)?
        {
            return Ok(Found::Packed(packed));
        }
        Ok(Found::Values(checkpoint.base_tensor(name)?.data))
    })
}

/// A fresh model: matrices normal with deviation 0.02, norms 1, biases 0. The values follow from `seed`,
/// the tensor's name and the place in it.
pub fn random_decoder(config: &DecoderConfig, placement: &Placement, seed: u64) -> Decoder {
    let array = |name: &str, shape: &[usize]| -> Result<Found, std::convert::Infallible> {
        let count = shape.iter().product();
        Ok(Found::Values(match shape.len() {
            1 if name.ends_with("bias") => vec![0.0; count],
            1 => vec![1.0; count],
            _ => normal_values(count, seed, name, INITIALIZER_RANGE),
        }))
    };
    match build(config, placement, array) {
        Ok(decoder) => decoder,
        Err(never) => match never {},
    }
}

/// Writes the decoder's configuration and weights into a directory that the caller commits.
///
/// # Errors
/// As [`write_hf_files`].
pub fn save_decoder(
    decoder: &Decoder,
    staged: &StagedDirectory,
    dtype: WeightDtype,
) -> Result<(), WeightsError> {
    let tensors = decoder
        .arrays()
        .map(|array| Ok((array.name().to_owned(), array.shape(), array.values())));
    write_hf_files(
        staged,
        &decoder.config,
        dtype,
        DEFAULT_MAX_SHARD_BYTES,
        tensors,
    )
}
