//! The attention layer: projections, optional q/k norms, rotation, attention, output projection.

use burn::tensor::Tensor;

use crate::kv_cache::LayerCache;
use crate::linear::Linear;
use crate::linear::weight::Array;
use crate::ops::attention::{self, AttentionOutput, AttentionPattern};
use crate::ops::rope::Rotation;
use crate::ops::{residual, rms_norm};
use crate::parameter::Parameter;

#[derive(Debug, Clone)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// RMS norm over each head of q and of k (Qwen3).
    pub q_norm: Option<Parameter>,
    pub k_norm: Option<Parameter>,
    pub epsilon: f64,
}

/// What the backward pass needs of one forward pass.
pub struct AttentionTape {
    /// Before the q/k norm; only where there is one.
    raw: Option<(Tensor<2>, Tensor<2>)>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    output: AttentionOutput,
}

impl Attention {
    /// `x` `[tokens, hidden]` → `[tokens, hidden]`. With a cache, its keys and values come first and the
    /// pattern's `key_length` counts them.
    pub fn forward(
        &self,
        x: &Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        self.o_proj
            .forward(&self.heads(x, rotation, pattern, cache))
    }

    /// What `o_proj` reads: `[tokens, heads · head_dim]`.
    pub fn heads(
        &self,
        x: &Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let (q, k, v) = (
            self.q_proj.forward(x),
            self.k_proj.forward(x),
            self.v_proj.forward(x),
        );
        let q = rotation.forward(self.normed(q, &self.q_norm));
        let k = rotation.forward(self.normed(k, &self.k_norm));
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v, pattern.rows),
            None => (k, v),
        };
        attention::forward(pattern, &q, &k, &v).out
    }

    /// The forward pass of a whole batch that keeps what `backward` needs.
    pub fn forward_with_tape(
        &self,
        x: &Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
    ) -> (Tensor<2>, AttentionTape) {
        let (q, k) = (self.q_proj.forward(x), self.k_proj.forward(x));
        let v = self.v_proj.forward(x);
        let raw = self.q_norm.is_some().then(|| (q.clone(), k.clone()));
        let q = rotation.forward(self.normed(q, &self.q_norm));
        let k = rotation.forward(self.normed(k, &self.k_norm));
        let output = attention::forward(pattern, &q, &k, &v);
        let y = self.o_proj.forward(&output.out);
        let tape = AttentionTape {
            raw,
            q,
            k,
            v,
            output,
        };
        (y, tape)
    }

    /// Gathers the parameters' gradients, returns that of `x`.
    pub fn backward(
        &mut self,
        dy: &Tensor<2>,
        x: &Tensor<2>,
        tape: AttentionTape,
        rotation: &Rotation,
        pattern: &AttentionPattern,
    ) -> Tensor<2> {
        let d_out = self.o_proj.backward(dy, &tape.output.out);
        let (dq, dk, dv) =
            attention::backward(pattern, &d_out, &tape.q, &tape.k, &tape.v, &tape.output);
        let (mut dq, mut dk) = (rotation.backward(dq), rotation.backward(dk));
        if let Some((q, k)) = &tape.raw {
            dq = norm_backward(dq, q, &mut self.q_norm, self.epsilon);
            dk = norm_backward(dk, k, &mut self.k_norm, self.epsilon);
        }
        let dx = self.q_proj.backward(&dq, x);
        let dx = residual::add(&dx, self.k_proj.backward(&dk, x));
        residual::add(&dx, self.v_proj.backward(&dv, x))
    }

    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        let norms = self.q_norm.iter().chain(&self.k_norm).map(Array::from);
        self.linears().flat_map(Linear::arrays).chain(norms)
    }

    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let projections = [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
        ];
        let norms = self.q_norm.iter_mut().chain(&mut self.k_norm);
        projections
            .into_iter()
            .flat_map(Linear::names_mut)
            .chain(norms.map(|norm| &mut norm.name))
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.linears()
            .flat_map(Linear::parameters)
            .chain(&self.q_norm)
            .chain(&self.k_norm)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.q_proj
            .parameters_mut()
            .chain(self.k_proj.parameters_mut())
            .chain(self.v_proj.parameters_mut())
            .chain(self.o_proj.parameters_mut())
            .chain(&mut self.q_norm)
            .chain(&mut self.k_norm)
    }

    fn normed(&self, x: Tensor<2>, norm: &Option<Parameter>) -> Tensor<2> {
        let Some(norm) = norm else { return x };
        let shape = x.dims();
        rms_norm::forward(&per_head(x, norm), &norm.value, self.epsilon).reshape(shape)
    }
}

fn norm_backward(
    dy: Tensor<2>,
    x: &Tensor<2>,
    norm: &mut Option<Parameter>,
    epsilon: f64,
) -> Tensor<2> {
    let Some(norm) = norm else { return dy };
    let shape = dy.dims();
    let x = per_head(x.clone(), norm);
    let (dx, dw) = rms_norm::backward(&per_head(dy, norm), &x, &norm.value, epsilon);
    if norm.trainable {
        norm.accumulate(dw);
    }
    dx.reshape(shape)
}

/// `[tokens, heads · head_dim]` → `[tokens · heads, head_dim]`.
fn per_head(x: Tensor<2>, norm: &Parameter) -> Tensor<2> {
    let ([tokens, width], head_dim) = (x.dims(), norm.elements());
    x.reshape([tokens * width / head_dim, head_dim])
}
