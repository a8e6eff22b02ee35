//! The gated MLP: down(silu(gate(x)) · up(x)).

use burn::tensor::Tensor;

use crate::linear::Linear;
use crate::linear::weight::Array;
use crate::ops::{residual, swiglu};
use crate::parameter::Parameter;

#[derive(Debug, Clone)]
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

/// What the backward pass needs; the activation is computed again from it.
pub struct MlpTape {
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl Mlp {
    /// `x` `[tokens, hidden]` → `[tokens, hidden]`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        self.forward_with_tape(x).0
    }

    /// What `down_proj` reads: `[tokens, intermediate]`.
    pub fn activation(&self, x: &Tensor<2>) -> Tensor<2> {
        swiglu::forward(&self.gate_proj.forward(x), &self.up_proj.forward(x))
    }

    pub fn forward_with_tape(&self, x: &Tensor<2>) -> (Tensor<2>, MlpTape) {
        let tape = self.tape(x);
        let activation = swiglu::forward(&tape.gate, &tape.up);
        (self.down_proj.forward(&activation), tape)
    }

    /// The tape alone, which does not need the largest product.
    pub fn tape(&self, x: &Tensor<2>) -> MlpTape {
        MlpTape {
            gate: self.gate_proj.forward(x),
            up: self.up_proj.forward(x),
        }
    }

    /// Gathers the parameters' gradients, returns that of `x`.
    pub fn backward(&mut self, dy: &Tensor<2>, x: &Tensor<2>, tape: MlpTape) -> Tensor<2> {
        let activation = swiglu::forward(&tape.gate, &tape.up);
        let d_activation = self.down_proj.backward(dy, &activation);
        drop(activation);
        let (d_gate, d_up) = swiglu::backward(&d_activation, &tape.gate, &tape.up);
        let dx = self.gate_proj.backward(&d_gate, x);
        residual::add(&dx, self.up_proj.backward(&d_up, x))
    }

    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        self.linears().flat_map(Linear::arrays)
    }

    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let projections = [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj];
        projections.into_iter().flat_map(Linear::names_mut)
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.linears().flat_map(Linear::parameters)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.gate_proj
            .parameters_mut()
            .chain(self.up_proj.parameters_mut())
            .chain(self.down_proj.parameters_mut())
    }
}
