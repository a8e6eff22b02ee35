//! A decoder from a checkpoint, from nothing, and back to a directory.

use burn::tensor::{DType, Device};

use crate::build::{Found, Placement, build};
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::weights::checkpoint::Checkpoint;
use crate::weights::dtype::WeightDtype;
use crate::weights::error::WeightsError;
use crate::weights::hf_directory::{DEFAULT_MAX_SHARD_BYTES, write_hf_files};
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

/// A decoder that is only read. On the CPU its matrices stay in the blocks of their file, and memory is about the
/// file's size; other devices hold them dense.
///
/// # Errors
/// As [`load_decoder`].
pub fn load_frozen_decoder(
    checkpoint: &Checkpoint,
    placement: &Placement,
) -> Result<Decoder, WeightsError> {
    let packs = placement.device == Device::flex() && placement.compute == DType::F32;
    build(checkpoint.config(), placement, |name, shape| {
        if packs
            && shape.len() == 2
            && let Some(packed) = checkpoint.packed(name)?
        {
            return Ok(Found::Packed(packed));
        }
        Ok(Found::Values(checkpoint.tensor(name)?.data))
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

/// Seeded normal values by Box and Muller's transform, two of a pair of hashed counters.
pub fn normal_values(count: usize, seed: u64, name: &str, deviation: f64) -> Vec<f32> {
    let key = name
        .bytes()
        .fold(mix(seed ^ 0x5851_F42D_4C95_7F2D), |key, byte| {
            mix(key ^ u64::from(byte))
        });
    let uniform = |counter: u64| (mix(key ^ mix(counter)) >> 11) as f64 / (1_u64 << 53) as f64;
    let mut values = Vec::with_capacity(count + 1);
    for pair in 0..count.div_ceil(2) as u64 {
        let radius = (-2.0 * (1.0 - uniform(2 * pair)).ln()).sqrt() * deviation;
        let angle = 2.0 * std::f64::consts::PI * uniform(2 * pair + 1);
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

/// The finaliser of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
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
