//! Fewer key/value heads: multi-head attention becomes grouped-query or multi-query attention
//! (arXiv 2305.13245).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::SurgeryError;
use super::replaced_vector;
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::load::INITIALIZER_RANGE;
use crate::random::normal_values;

/// What becomes of the key/value heads of a group, the three ways that the paper compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first of them.
    First,
    /// None of them: a head from scratch, as a fresh model has it.
    Random,
}

impl Decoder {
    /// Leaves `kv_heads` key and value heads a layer. Each serves the queries of a group of neighbouring heads
    /// and is made of their keys and values. `seed` is what [`Pooling::Random`] draws from. With as many heads as
    /// there are nothing changes.
    ///
    /// # Errors
    /// [`SurgeryError::KvHeads`] when the number does not divide the present one; the decoder is then as it was.
    pub fn group_kv_heads(
        &mut self,
        kv_heads: usize,
        pooling: Pooling,
        seed: u64,
    ) -> Result<(), SurgeryError> {
        let found = self.config.num_key_value_heads;
        if kv_heads == 0 || !found.is_multiple_of(kv_heads) {
            return Err(SurgeryError::KvHeads {
                wanted: kv_heads,
                found,
            });
        }
        if kv_heads == found {
            return Ok(());
        }
        let head_dim = self.config.head_dim;
        let group = found / kv_heads;
        for block in &mut self.blocks {
            let attention = &mut block.self_attn;
            for projection in [&mut attention.k_proj, &mut attention.v_proj] {
                pool_projection(projection, head_dim, group, pooling, seed);
            }
        }
        self.config.num_key_value_heads = kv_heads;
        Ok(())
    }
}

fn pool_projection(
    projection: &mut Linear,
    head_dim: usize,
    group: usize,
    pooling: Pooling,
    seed: u64,
) {
    let weight = &projection.weight;
    let (rows, columns) = (weight.rows() / group, weight.columns());
    let values = match pooling {
        Pooling::Random => normal_values(rows * columns, seed, weight.name(), INITIALIZER_RANGE),
        // The rows of a head stay together and in order, which is what its rotation goes by.
        _ => pool(&weight.values(), head_dim * columns, group, pooling),
    };
    projection.weight = weight.replaced(values, columns);
    if let Some(bias) = &mut projection.bias {
        let values = match pooling {
            Pooling::Random => vec![0.0; rows],
            _ => pool(&bias.values(), head_dim, group, pooling),
        };
        *bias = replaced_vector(bias, values);
    }
}

/// Makes one head of every `group` of neighbours, each of `head` values.
fn pool(values: &[f32], head: usize, group: usize, pooling: Pooling) -> Vec<f32> {
    let mut pooled = Vec::with_capacity(values.len() / group);
    for members in values.chunks(head * group) {
        if pooling == Pooling::First {
            pooled.extend_from_slice(&members[..head]);
            continue;
        }
        pooled.extend((0..head).map(|at| {
            let sum: f64 = members[at..]
                .iter()
                .step_by(head)
                .copied()
                .map(f64::from)
                .sum();
            (sum / group as f64) as f32
        }));
    }
    pooled
}
