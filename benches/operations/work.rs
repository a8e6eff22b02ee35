//! The operations that can be asked for. Each is made ready with random inputs and gives a closure that does it once.

use burn::tensor::{DType, Device, Distribution, Tensor};
use model::config::{RopeConfig, RopeScaling};
use model::linear::{Linear, Weight};
use model::ops::attention::{self, AttentionPattern};
use model::ops::rope::{Rotation, frequencies};
use model::ops::{embedding, rms_norm, swiglu};
use model::parameter::Parameter;
use rayon::prelude::*;
use serde::Deserialize;
use trainer::loss::LossConfig;
use trainer::optim::adamw::{AdamW, AdamWConfig, GradientScale};
use trainer::optim::clip::global_norm;

use crate::Pass;

mod adapters;
mod losses;

const EPSILON: f64 = 1e-5;

/// Where, and in what type, it is computed. Weights and their gradients are f32.
pub struct Place {
    pub device: Device,
    pub compute: DType,
}

#[derive(Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Work {
    /// Reads and writes `bytes`, half each: what the memory can do.
    Copy {
        bytes: usize,
    },
    /// Causal; samples of `segment` tokens are packed into a row.
    Attention {
        rows: usize,
        length: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        segment: usize,
    },
    RmsNorm {
        rows: usize,
        width: usize,
    },
    Rope {
        rows: usize,
        heads: usize,
        head_dim: usize,
    },
    Swiglu {
        rows: usize,
        width: usize,
    },
    /// The gradient of looking up `rows` tokens, added to what is there.
    Embedding {
        rows: usize,
        vocabulary: usize,
        width: usize,
    },
    /// y = x·Wᵀ; backwards the gradients of x and, added to what is there, of W.
    Product {
        rows: usize,
        input: usize,
        output: usize,
    },
    /// A frozen matrix with an adapter of `rank`, forward and backward: the gradients of x and of the adapter.
    Adapter {
        rows: usize,
        input: usize,
        output: usize,
        rank: usize,
    },
    /// Loss and gradients from hidden states and head.
    LinearLoss {
        rows: usize,
        width: usize,
        vocabulary: usize,
        losses: Vec<LossConfig>,
    },
    Adamw {
        shapes: Vec<[usize; 2]>,
    },
    GlobalNorm {
        shapes: Vec<[usize; 2]>,
    },
}

impl Work {
    /// A closure that does the work once; with `formula` by Burn's tensor operations.
    pub fn prepare(&self, place: &Place, pass: Pass, formula: bool) -> Box<dyn FnMut()> {
        // Under autodiff a tensor is on no device with an operation of our own, so that the formula is taken. No
        // gradient is asked for: nothing is recorded.
        let placed = |tensor: Tensor<2>| match formula {
            true => tensor.autodiff(),
            false => tensor,
        };
        let make = |shape: [usize; 2]| placed(random(shape, place, place.compute));
        let weights = |shape: [usize; 2]| placed(random(shape, place, DType::F32));
        let parameter = |name: usize, [rows, columns]: [usize; 2]| {
            let value = weights([rows, columns]);
            let mut made = Parameter::new(name.to_string(), vec![rows, columns], value);
            made.gradient = Some(weights([rows, columns]));
            made
        };
        let parameters = |shapes: &[[usize; 2]]| -> Vec<Parameter> {
            let shapes = shapes.iter().enumerate();
            shapes
                .map(|(name, &shape)| parameter(name, shape))
                .collect()
        };
        match *self {
            Self::Copy { bytes } => copy(bytes, place),
            Self::Attention {
                rows,
                length,
                heads,
                kv_heads,
                head_dim,
                segment,
            } => {
                let segments: Vec<u32> = (0..rows * length)
                    .map(|i| (i % length / segment) as u32 + 1)
                    .collect();
                let pattern = AttentionPattern {
                    rows,
                    query_length: length,
                    key_length: length,
                    heads,
                    kv_heads,
                    head_dim,
                    visible: AttentionPattern::visible_in_batch(&segments, length, None),
                };
                let [queries, keys] =
                    [heads, kv_heads].map(|heads| [rows * length, heads * head_dim]);
                let (q, d_out) = (make(queries), make(queries));
                let (k, v) = (make(keys), make(keys));
                let kept =
                    (pass == Pass::Backward).then(|| attention::forward(&pattern, &q, &k, &v));
                Box::new(move || match (&kept, pass) {
                    (Some(output), _) => {
                        attention::backward(&pattern, &d_out, &q, &k, &v, output);
                    }
                    (None, Pass::Forward) => {
                        attention::forward(&pattern, &q, &k, &v);
                    }
                    (None, _) => {
                        let output = attention::forward(&pattern, &q, &k, &v);
                        attention::backward(&pattern, &d_out, &q, &k, &v, &output);
                    }
                })
            }
            Self::RmsNorm { rows, width } => {
                let (x, dy, weight) = (
                    make([rows, width]),
                    make([rows, width]),
                    weights([1, width]),
                );
                Box::new(move || match pass {
                    Pass::Forward => {
                        rms_norm::forward(&x, &weight, EPSILON);
                    }
                    _ => {
                        rms_norm::backward(&dy, &x, &weight, EPSILON);
                    }
                })
            }
            Self::Rope {
                rows,
                heads,
                head_dim,
            } => {
                let mut x = Some(make([rows, heads * head_dim]));
                let config = RopeConfig {
                    theta: 1e5,
                    scaling: RopeScaling::None,
                };
                let positions: Vec<u32> = (0..rows as u32).collect();
                let device = x.as_ref().map_or(place.device.clone(), Tensor::device);
                let frequencies = frequencies(&config, head_dim);
                let rotation = Rotation::new(&frequencies, &positions, &device, place.compute);
                // It turns in place what nobody else holds, as in the decoder.
                Box::new(move || {
                    x = x.take().map(|x| match pass {
                        Pass::Forward => rotation.forward(x),
                        _ => rotation.backward(x),
                    });
                })
            }
            Self::Swiglu { rows, width } => {
                let [gate, up, dy] = [0; 3].map(|_| make([rows, width]));
                Box::new(move || match pass {
                    Pass::Forward => {
                        swiglu::forward(&gate, &up);
                    }
                    _ => {
                        swiglu::backward(&dy, &gate, &up);
                    }
                })
            }
            Self::Embedding {
                rows,
                vocabulary,
                width,
            } => {
                let mut gradient = Some(weights([vocabulary, width]));
                let dy = make([rows, width]);
                let ids = tokens(rows, vocabulary);
                Box::new(move || {
                    let sum = gradient.take();
                    gradient = sum.map(|sum| embedding::accumulate_gradient(sum, &ids, &dy));
                })
            }
            Self::Product {
                rows,
                input,
                output,
            } => {
                let (x, dy) = (make([rows, input]), make([rows, output]));
                let mut linear = Linear::new(Weight::Dense(parameter(0, [output, input])), None);
                Box::new(move || {
                    match pass {
                        Pass::Forward => linear.forward(&x),
                        _ => linear.backward(&dy, &x),
                    };
                })
            }
            Self::Adapter {
                rows,
                input,
                output,
                rank,
            } => adapters::prepare([rows, input, output, rank], place, formula),
            Self::LinearLoss {
                rows,
                width,
                vocabulary,
                ref losses,
            } => losses::prepare(rows, width, vocabulary, losses, place, formula),
            Self::Adamw { ref shapes } => {
                let mut parameters = parameters(shapes);
                let gradients: Vec<_> = parameters.iter().map(|p| p.gradient.clone()).collect();
                let config = AdamWConfig {
                    weight_decay: 0.1,
                    ..Default::default()
                };
                let mut optimizer = AdamW::new(config);
                Box::new(move || {
                    for (parameter, gradient) in parameters.iter_mut().zip(&gradients) {
                        parameter.gradient.clone_from(gradient);
                    }
                    optimizer.step(parameters.iter_mut(), 3e-4, GradientScale::Known(0.5));
                })
            }
            Self::GlobalNorm { ref shapes } => {
                let parameters = parameters(shapes);
                Box::new(move || {
                    std::hint::black_box(global_norm(parameters.iter()));
                })
            }
        }
    }
}

fn copy(bytes: usize, place: &Place) -> Box<dyn FnMut()> {
    let values = bytes / 8;
    if place.compute == DType::F32 {
        let from = vec![1.0_f32; values];
        let mut to = vec![0.0_f32; values];
        const BLOCK: usize = 1 << 16;
        return Box::new(move || {
            (to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)))
                .for_each(|(to, from)| to.copy_from_slice(from));
        });
    }
    let from = random([values / 1024, 1024], place, DType::F32);
    Box::new(move || {
        std::hint::black_box(from.clone().neg());
    })
}

/// Normally distributed, of the size that activations have.
fn random(shape: [usize; 2], place: &Place, dtype: DType) -> Tensor<2> {
    let normal = Distribution::Normal(0.0, 1.0);
    let values: Tensor<2> = Tensor::random(shape, normal, (&place.device, DType::F32));
    values.cast(dtype)
}

/// Ids all over the vocabulary, some of them more than once.
fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    let spread = |i: u64| (i * i * 2_654_435_761 + i * 40_503) % vocabulary as u64;
    (0..count as u64).map(|i| spread(i) as u32).collect()
}
