//! y = x·Wᵀ + b with W `[out, in]` as checkpoints store it, and what an adapter adds.

use burn::tensor::{DType, Tensor, TensorData};

use super::activation::ActivationQuantization;
use super::lora::Lora;
use super::weight::{Array, Weight};
use crate::operation;
use crate::parameter::Parameter;
use crate::span::Cost;

#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Parameter>,
    /// What happens to the inputs before the product; an adapter sees them as they are.
    pub activations: Option<ActivationQuantization>,
    /// Adapters by their names, and which of them is at work.
    adapters: Vec<(String, Lora)>,
    active: Option<usize>,
}

impl Linear {
    pub fn new(weight: Weight, bias: Option<Parameter>) -> Self {
        Self {
            weight,
            bias,
            activations: None,
            adapters: Vec::new(),
            active: None,
        }
    }

    /// As a checkpoint names the module: `model.layers.0.self_attn.q_proj`.
    pub fn module(&self) -> &str {
        let name = self.weight.name();
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// Adds an adapter and puts it to work.
    pub fn add_adapter(&mut self, name: &str, lora: Lora) {
        self.active = Some(self.adapters.len());
        self.adapters.push((name.to_owned(), lora));
    }

    /// Puts the adapter of this name to work; without one, or without such an adapter, the matrix works alone.
    pub fn use_adapter(&mut self, name: Option<&str>) {
        let named = |(other, _): &(String, Lora)| Some(other.as_str()) == name;
        self.active = self.adapters.iter().position(named);
    }

    /// Merges the adapter at work into a dense matrix; the others go.
    pub fn merge_adapter(&mut self) {
        let Some(lora) = self.adapter() else { return };
        let shape = [self.weight.rows(), self.weight.columns()];
        let data = TensorData::new(lora.merge_into(self.weight.values()), shape);
        let value = Tensor::<2>::from_data(data, (&self.weight.device(), DType::F32));
        self.weight = Weight::Dense(Parameter::new(self.weight.name(), shape.to_vec(), value));
        (self.adapters, self.active) = (Vec::new(), None);
    }

    /// The adapter at work.
    pub fn adapter(&self) -> Option<&Lora> {
        self.active.map(|at| &self.adapters[at].1)
    }

    pub fn adapter_mut(&mut self) -> Option<&mut Lora> {
        self.active.map(|at| &mut self.adapters[at].1)
    }

    /// `x` `[tokens, in]` → `[tokens, out]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!("linear forward", Cost::weight_product(x, &self.weight));
        let y = match self.adapter() {
            Some(lora) => lora.forward(&self.weight, x),
            None => self.weight.forward(&self.rounded(x)),
        };
        match &self.bias {
            Some(bias) => y + bias.value.clone().cast(x.dtype()),
            None => y,
        }
    }

    /// Gathers the gradients of what is trained, returns that of `x`.
    pub fn backward(&mut self, dy: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!("linear backward", Cost::weight_product(dy, &self.weight));
        if self
            .weight
            .parameter()
            .is_some_and(|weight| weight.trainable)
        {
            self.weight.accumulate_product(dy, &self.rounded(x));
        }
        if let Some(bias) = self.bias.as_mut().filter(|bias| bias.trainable) {
            bias.accumulate(dy.clone().cast(bias.value.dtype()).sum_dim(0));
        }
        match self.active.map(|at| &mut self.adapters[at].1) {
            Some(lora) => lora.backward(&self.weight, dy, x),
            None => self.weight.backward(dy),
        }
    }

    /// What the product reads.
    fn rounded(&self, x: &Tensor<2>) -> Tensor<2> {
        match &self.activations {
            Some(activations) => activations.apply(x),
            None => x.clone(),
        }
    }

    /// Weight, with the adapter at work merged into it, and bias as the checkpoint names them.
    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        let weight = match self.adapter() {
            Some(lora) => Array::Adapted(&self.weight, lora),
            None => Array::from(&self.weight),
        };
        std::iter::once(weight).chain(self.bias.as_ref().map(Array::from))
    }

    /// The names of all arrays, to change.
    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let bias = self.bias.as_mut().map(|bias| &mut bias.name);
        let adapters =
            (self.adapters.iter_mut()).flat_map(|(_, lora)| [&mut lora.a.name, &mut lora.b.name]);
        std::iter::once(self.weight.name_mut())
            .chain(bias)
            .chain(adapters)
    }

    /// What can be trained.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let adapter = self.adapter().map(|lora| [&lora.a, &lora.b]);
        (self.weight.parameter().into_iter())
            .chain(&self.bias)
            .chain(adapter.into_iter().flatten())
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let adapter = self.active.map(|at| &mut self.adapters[at].1);
        (self.weight.parameter_mut().into_iter())
            .chain(&mut self.bias)
            .chain(
                adapter
                    .into_iter()
                    .flat_map(|lora| [&mut lora.a, &mut lora.b]),
            )
    }
}
