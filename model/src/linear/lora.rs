//! Low-rank adapters (LoRA, arXiv 2106.09685) beside a frozen matrix: y = x·Wᵀ + s·(drop(x)·Aᵀ)·Bᵀ.

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weight::Weight;
use crate::for_real;
use crate::ops::adapted_rows::{adapted_backward, adapted_forward, pays};
use crate::ops::host::{from_values, is_host};
use crate::ops::low_rank::narrow_product;
use crate::ops::packed_product::Rows;
use crate::ops::real::Real;
use crate::ops::simd::widest;
use crate::ops::sum_product::{add_product, add_product_transposed};
use crate::parameter::Parameter;
use crate::random::{Stream, uniform_values};

/// An adapter as a recipe asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapter's two matrices, 1 to 4096.
    #[schemars(range(min = 1, max = 4096))]
    pub rank: usize,
    /// What the adapter adds is multiplied by `alpha / rank`, with `rslora` by `alpha / √rank`.
    #[schemars(range(min = 0.000001, max = 1000000))]
    pub alpha: f64,
    /// Share of the adapter's inputs that training sets to 0.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dropout: f64,
    /// Rank-stabilised LoRA (arXiv 2312.03732): see `alpha`.
    pub rslora: bool,
    /// Which linear layers get an adapter: patterns of their names, `*` for any characters and `?` for one, such as
    /// "q_proj" or "layers.3.*".
    #[schemars(length(min = 1))]
    pub targets: Vec<String>,
    /// How the frozen matrices are held.
    pub base: BaseForm,
}

/// How the matrices of a model that is only read are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseForm {
    /// In the blocks of their file on the CPU.
    #[default]
    AsStored,
    /// Those of linear layers in 4 bits (QLoRA, arXiv 2305.14314); the rest as stored.
    Nf4,
    /// As numbers of 32 bits.
    F32,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            rslora: false,
            targets: vec!["*".into()],
            base: BaseForm::default(),
        }
    }
}

/// Whether a pattern names a module: `*` stands for any characters, `?` for one. It is held against the whole name
/// `model.layers.3.self_attn.q_proj` and against each of its ends after a dot.
pub fn matches_module(pattern: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(dot, _)| &module[dot + 1..]);
    std::iter::once(module)
        .chain(ends)
        .any(|end| matches_text(pattern.as_bytes(), end.as_bytes()))
}

fn matches_text(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| matches_text(rest, &text[skip..])),
        ([b'?', rest @ ..], [_, text @ ..]) => matches_text(rest, text),
        ([wanted, rest @ ..], [found, text @ ..]) => wanted == found && matches_text(rest, text),
        _ => false,
    }
}

/// `alpha / rank`, or `alpha / √rank`.
pub fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    match rslora {
        true => alpha / (rank as f64).sqrt(),
        false => alpha / rank as f64,
    }
}

/// The adapter of one linear layer.
#[derive(Debug, Clone)]
pub struct Lora {
    /// `[rank, in]`
    pub a: Parameter,
    /// `[out, rank]`
    pub b: Parameter,
    pub scale: f64,
    pub dropout: f64,
    /// What the microbatch under way drops; `None` outside training.
    pub draw: Option<DropoutDraw>,
}

/// Which values are dropped follows from these numbers, the layer's name, and the place of the token in the whole
/// step: no cut into microbatches changes it, and the backward pass draws the same again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropoutDraw {
    pub seed: u64,
    pub step: u64,
    /// Number of the microbatch's first token in its step.
    pub first_token: u64,
}

impl Lora {
    /// A fresh adapter of `module`, whose matrix is `[output, input]`: A uniform in ±1/√input, which is PEFT's Kaiming
    /// initialisation with a = √5; B zero, so that it adds nothing yet.
    pub fn new(
        module: &str,
        [output, input]: [usize; 2],
        config: &LoraConfig,
        seed: u64,
        like: &Tensor<2>,
    ) -> Self {
        let rank = config.rank;
        let bound = 1.0 / (input.max(1) as f64).sqrt();
        let name = format!("{module}.lora_A.weight");
        let a = uniform_values(rank * input, seed, &name, bound);
        let b = vec![0.0; output * rank];
        let scale = scale(config.alpha, rank, config.rslora);
        Self::of_values(module, [output, rank, input], (a, b), scale, like)
    }

    /// An adapter of given values, `a` `[rank, input]` and `b` `[output, rank]`; on the device of `like`, and in `f64`
    /// where that is the dtype of `like`, in `f32` otherwise.
    pub fn of_values(
        module: &str,
        [output, rank, input]: [usize; 3],
        (a, b): (Vec<f32>, Vec<f32>),
        scale: f64,
        like: &Tensor<2>,
    ) -> Self {
        let dtype = match like.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let parameter = |kind: &str, values: Vec<f32>, shape: [usize; 2]| {
            let data = TensorData::new(values, shape);
            let value = Tensor::<2>::from_data(data, (&like.device(), DType::F32)).cast(dtype);
            Parameter::new(format!("{module}.{kind}.weight"), shape.to_vec(), value)
        };
        Self {
            a: parameter("lora_A", a, [rank, input]),
            b: parameter("lora_B", b, [output, rank]),
            scale,
            dropout: 0.0,
            draw: None,
        }
    }

    pub fn rank(&self) -> usize {
        self.a.value.dims()[0]
    }

    /// x·Wᵀ for `x` `[tokens, in]` and the frozen `weight`, and what the adapter adds: `[tokens, out]`.
    pub fn forward(&self, weight: &Weight, x: &Tensor<2>) -> Tensor<2> {
        let mask = self.mask(x);
        if let Some(y) = self.through_rows(weight, x, mask.is_some(), adapted_forward) {
            return y;
        }
        let y = weight.forward(x);
        let x = dropped(x, mask.as_ref());
        add_product_transposed(y, &self.low_rank(&x), &self.b.value.clone().cast(x.dtype()))
    }

    /// Gathers the gradients of A and B; returns that of `x`.
    pub fn backward(&mut self, weight: &Weight, dy: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        let mask = self.mask(x);
        let dx = self.through_rows(weight, dy, mask.is_some(), adapted_backward);
        let b = self.b.value.clone().cast(dy.dtype());
        let d_low = narrow_product(dy, &b, self.scale);
        let x = dropped(x, mask.as_ref());
        if self.b.trainable {
            self.b.accumulate_product(dy, &self.low_rank(&x));
        }
        if self.a.trainable {
            self.a.accumulate_product(&d_low, &x);
        }
        dx.unwrap_or_else(|| {
            let dx = weight.backward(dy);
            let a = self.a.value.clone().cast(dy.dtype());
            match mask {
                None => add_product(dx, &d_low, &a),
                Some(mask) => dx + d_low.matmul(a) * mask,
            }
        })
    }

    /// A product with the rows of W + s·B·A; `None` where two products apart are better, as dropout needs them.
    fn through_rows(
        &self,
        weight: &Weight,
        x: &Tensor<2>,
        drops: bool,
        take: fn(&dyn Rows, [&Tensor<2>; 2], &Tensor<2>) -> Tensor<2>,
    ) -> Option<Tensor<2>> {
        let (a, b) = (&self.a.value, &self.b.value);
        if drops || !pays(x, a, b) {
            return None;
        }
        let scaled = b.clone().mul_scalar(self.scale);
        weight.read_rows(|rows| take(rows, [a, &scaled], x))
    }

    /// Adds s·B·A to `weight`, the values `[out, in]` of the frozen matrix.
    pub fn merge_into(&self, weight: Vec<f32>) -> Vec<f32> {
        let ([rank, input], [output, _]) = (self.a.value.dims(), self.b.value.dims());
        let (a, b) = (self.a.values(), self.b.values());
        merge(weight, [output, rank, input], &a, &b, self.scale)
    }

    /// s·x·Aᵀ, `[tokens, rank]`.
    fn low_rank(&self, x: &Tensor<2>) -> Tensor<2> {
        let a = self.a.value.clone().cast(x.dtype());
        narrow_product(x, &a.transpose(), self.scale)
    }

    /// 0 where `x` is dropped, 1/(1 − p) elsewhere.
    fn mask(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        let draw = self.draw.filter(|_| self.dropout > 0.0)?;
        let stream = Stream::new(draw.seed, &self.a.name).nth(draw.step);
        let [tokens, width] = x.dims();
        if is_host(x) {
            return Some(for_real!(x.dtype(), F, {
                let mask = mask_values::<F>(stream, draw.first_token, width, tokens, self.dropout);
                from_values(mask, [tokens, width])
            }));
        }
        let mask = mask_values::<f32>(stream, draw.first_token, width, tokens, self.dropout);
        let data = TensorData::new(mask, [tokens, width]);
        Some(Tensor::<2>::from_data(data, (&x.device(), DType::F32)).cast(x.dtype()))
    }
}

/// W + s·B·A in `f32`, row after row.
pub fn merge(
    weight: Vec<f32>,
    [output, rank, input]: [usize; 3],
    a: &[f32],
    b: &[f32],
    scale: f64,
) -> Vec<f32> {
    let scaled = b.iter().map(|b| (f64::from(*b) * scale) as f32).collect();
    let sum = add_product(
        from_values(weight, [output, input]),
        &from_values::<f32, 2>(scaled, [output, rank]),
        &from_values(a.to_vec(), [rank, input]),
    );
    sum.into_data().try_to_vec().expect("made of f32 values")
}

fn dropped(x: &Tensor<2>, mask: Option<&Tensor<2>>) -> Tensor<2> {
    match mask {
        Some(mask) => x.clone() * mask.clone(),
        None => x.clone(),
    }
}

/// Two values a random number, 32 bits each.
fn mask_values<F: Real>(
    stream: Stream,
    first_token: u64,
    width: usize,
    tokens: usize,
    dropout: f64,
) -> Vec<F> {
    let pairs = width.div_ceil(2) as u64;
    let limit = (dropout * 4_294_967_296.0) as u64;
    let kept = F::from_f64(1.0 / (1.0 - dropout));
    let mut mask = vec![F::ZERO; tokens * width];
    mask.par_chunks_mut(width.max(1))
        .with_min_len(16)
        .enumerate()
        .for_each(|(token, row)| {
            let start = (first_token + token as u64) * pairs;
            widest(
                #[inline(always)]
                || {
                    for (pair, values) in row.chunks_mut(2).enumerate() {
                        let mut bits = stream.bits(start + pair as u64);
                        for value in values {
                            if bits & 0xFFFF_FFFF >= limit {
                                *value = kept;
                            }
                            bits >>= 32;
                        }
                    }
                },
            );
        });
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, random, values};

    #[test]
    fn patterns_name_modules_by_their_ends() {
        let module = "model.layers.13.self_attn.q_proj";
        for pattern in [
            "*",
            "q_proj",
            "*_proj",
            "self_attn.*",
            "layers.1?.*",
            module,
        ] {
            assert!(matches_module(pattern, module), "{pattern}");
        }
        for pattern in ["", "proj", "q_pro", "mlp.*", "layers.1.*", "k_proj"] {
            assert!(!matches_module(pattern, module), "{pattern}");
        }
    }

    #[test]
    fn a_fresh_adapter_is_peft_s_and_adds_nothing() {
        let like = random([1, 1], 1).cast(DType::F32);
        let lora = Lora::new("m", [40, 64], &LoraConfig::default(), 7, &like);
        let a = values(&lora.a.value);
        let largest = a.iter().fold(0.0_f64, |largest, a| largest.max(a.abs()));
        assert!((0.12..=0.125).contains(&largest), "{largest}");
        let mean_square = a.iter().map(|a| a * a).sum::<f64>() / a.len() as f64;
        assert!(
            (mean_square * 64.0 * 3.0 - 1.0).abs() < 0.1,
            "{mean_square}"
        );
        for tokens in [3, 200] {
            let (x, w) = (random([tokens, 64], 2), random([40, 64], 3));
            let (x, w) = (x.cast(DType::F32), weight(w.cast(DType::F32)));
            assert_close(&lora.forward(&w, &x), &w.forward(&x), 1e-6);
        }
        assert_eq!(scale(32.0, 16, false), 2.0);
        assert_eq!(scale(32.0, 16, true), 8.0);
    }

    fn weight(value: Tensor<2>) -> Weight {
        Weight::Dense(Parameter::new("m.weight", value.dims().to_vec(), value))
    }

    fn adapter(dropout: f64) -> Lora {
        let like = random([1, 1], 1);
        let values = |seed, n| {
            values(&random([1, n], seed))
                .iter()
                .map(|&v| v as f32)
                .collect()
        };
        let mut lora = Lora::of_values("m", [4, 3, 5], (values(2, 15), values(3, 12)), 1.5, &like);
        lora.dropout = dropout;
        lora.draw = Some(DropoutDraw {
            seed: 1,
            step: 2,
            first_token: 3,
        });
        lora
    }

    #[test]
    fn gradients_equal_finite_differences_with_and_without_dropout() {
        let (x, dy) = (random([6, 5], 4), random([6, 4], 5));
        let w = weight(random([4, 5], 6));
        for dropout in [0.0, 0.4] {
            let mut lora = adapter(dropout);
            let dx = lora.backward(&w, &dy, &x);
            let loss = |lora: &Lora, x: &Tensor<2>| (lora.forward(&w, x) * dy.clone()).sum();
            assert_gradient(&x, &dx, |x| loss(&lora, x));
            let moved = |a: Option<&Tensor<2>>, b: Option<&Tensor<2>>| {
                let mut moved = lora.clone();
                if let Some(a) = a {
                    moved.a.value = a.clone();
                }
                if let Some(b) = b {
                    moved.b.value = b.clone();
                }
                loss(&moved, &x)
            };
            let gradient = |parameter: &Parameter| parameter.gradient.clone().unwrap();
            assert_gradient(&lora.a.value, &gradient(&lora.a), |a| moved(Some(a), None));
            assert_gradient(&lora.b.value, &gradient(&lora.b), |b| moved(None, Some(b)));
        }
    }

    #[test]
    fn a_token_drops_the_same_wherever_the_step_is_cut() {
        let mut lora = adapter(0.25);
        let x = random([2000, 5], 4);
        let whole = values(&lora.mask(&x).unwrap());
        let dropped = whole.iter().filter(|&&m| m == 0.0).count() as f64 / whole.len() as f64;
        assert!((dropped - 0.25).abs() < 0.02, "{dropped}");
        assert!(
            whole
                .iter()
                .all(|&m| m == 0.0 || (m - 4.0 / 3.0).abs() < 1e-12)
        );
        lora.draw = lora.draw.map(|draw| DropoutDraw {
            first_token: draw.first_token + 700,
            ..draw
        });
        let rest = values(&lora.mask(&random([1300, 5], 4)).unwrap());
        assert_eq!(rest, whole[700 * 5..]);
        lora.draw = None;
        assert!(lora.mask(&x).is_none());
    }

    #[test]
    fn merged_is_what_both_branches_compute() {
        let lora = adapter(0.0);
        let (w, x) = (random([4, 5], 7).cast(DType::F32), random([6, 5], 8));
        let merged = lora.merge_into(values(&w).iter().map(|&w| w as f32).collect());
        let merged = from_values::<f32, 2>(merged, [4, 5]).cast(DType::F64);
        let apart = lora.forward(&weight(w.cast(DType::F64)), &x);
        assert_close(&x.matmul(merged.transpose()), &apart, 1e-6);
    }
}
