//! What the passes through the blocks of a model take, in the order in which the decoder takes and frees it.
//!
//! Of a block the backward pass reads its input, the sum after attention (both `[tokens, hidden]`), q, k, v, the heads' output
//! with a log-sum-exp a head, gate and up: `tokens · (2·hidden + 2·queries + 2·keys + heads + 2·ffn)` values. With
//! `checkpoint_blocks` it is the input alone, `tokens · hidden`, and one block at a time is whole.

use std::collections::HashMap;

use model::linear::lora::BaseForm;

use super::ledger::{Array, Ledger, Part};
use super::shape::{Form, LoraShape, ModelShape};

/// The rows of a long sum that one part of a product's backward pass takes (`model::ops::product`).
const PANEL_ROWS: usize = 4096;
/// Values of a quantised matrix that are dequantised at a time, about (`model::ops::packed_product`).
const PANEL_VALUES: usize = 1 << 20;
/// Above so many tokens products with quantised blocks go by panels.
const FEW_TOKENS: usize = 64;

/// Bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// Of trained weights, of their gradients and moments.
    pub weights: usize,
    pub activations: usize,
    /// Whether frozen matrices stay in the blocks of their file.
    pub packs: bool,
    /// Whether attention needs no array of all scores.
    pub fused: bool,
}

/// `f32` throughout, on the CPU.
pub const ON_CPU: Numbers = Numbers {
    weights: 4,
    activations: 4,
    packs: true,
    fused: true,
};

/// Weights in `f32`, activations in `bf16`.
pub const ON_CUDA: Numbers = Numbers {
    weights: 4,
    activations: 2,
    packs: false,
    fused: true,
};

/// All in `f32`.
pub const ON_VULKAN: Numbers = Numbers {
    activations: 4,
    ..ON_CUDA
};

/// How a model is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holding<'a> {
    Trained,
    Frozen(BaseForm),
    /// Frozen, with an adapter that is trained.
    Adapted(&'a LoraShape),
}

/// A model at work on some tokens.
pub struct Pass<'a> {
    pub model: &'a ModelShape,
    pub holding: Holding<'a>,
    pub tokens: usize,
    pub numbers: Numbers,
    /// What its weights are held as, and what its activations are.
    pub weights: Part,
    pub part: Part,
}

/// Gradients that have gathered, by the tensor's name.
pub type Gradients = HashMap<String, Array>;

/// What a block keeps; the input may be all of it.
pub struct Kept {
    input: Array,
    rest: Option<Rest>,
}

struct Rest {
    attention: Vec<Array>,
    middle: Array,
    mlp: [Array; 2],
}

/// A linear layer of a block.
struct Linear {
    name: String,
    rows: usize,
    columns: usize,
    form: Form,
    lora: Option<(usize, bool)>,
}

impl<'a> Pass<'a> {
    fn values(&self, width: usize) -> usize {
        self.tokens * width * self.numbers.activations
    }

    fn take(&self, ledger: &mut Ledger, width: usize) -> Array {
        ledger.take(self.part, self.values(width))
    }

    pub fn hidden(&self) -> usize {
        self.model.config.hidden_size
    }

    fn queries(&self) -> usize {
        self.model.config.num_attention_heads * self.model.config.head_dim
    }

    fn keys(&self) -> usize {
        self.model.config.num_key_value_heads * self.model.config.head_dim
    }

    fn ffn(&self) -> usize {
        self.model.config.intermediate_size
    }

    fn lora(&self) -> Option<&'a LoraShape> {
        match self.holding {
            Holding::Adapted(lora) => Some(lora),
            _ => None,
        }
    }

    /// How the matrix of this name is held.
    pub fn form(&self, tensor: &super::shape::TensorShape) -> Form {
        let base = match self.holding {
            Holding::Trained => return Form::Dense,
            Holding::Frozen(base) => base,
            Holding::Adapted(lora) => lora.base,
        };
        match self.numbers.packs || base == BaseForm::Nf4 {
            true => tensor.frozen_form(base),
            false => Form::Dense,
        }
    }

    /// Takes the weights as they are loaded, tensor after tensor, and what an adapter adds.
    pub fn load(&self, ledger: &mut Ledger) -> Vec<Array> {
        let mut held = Vec::with_capacity(self.model.tensors.len() + 1);
        for tensor in &self.model.tensors {
            let form = self.form(tensor);
            let bytes = tensor.bytes(form, self.numbers.weights);
            // What is to be rounded is read in full before.
            let read =
                (form == Form::Nf4).then(|| ledger.take(self.weights, 4 * tensor.elements()));
            held.push(ledger.take(self.weights, bytes));
            ledger.give_all(read);
        }
        let beside = match self.holding {
            Holding::Adapted(lora) => Some(lora),
            Holding::Frozen(_) => self.model.adapter.as_ref(),
            Holding::Trained => None,
        };
        if let Some(lora) = beside {
            let values = self.model.lora_parameters(lora) as usize;
            held.push(ledger.take(self.weights, 4 * values));
        }
        held
    }

    /// The arrays that are trained, with their elements.
    pub fn trained(&self) -> Vec<(String, usize)> {
        match self.holding {
            Holding::Frozen(_) => Vec::new(),
            Holding::Trained => (self.model.tensors.iter())
                .map(|tensor| (tensor.name.clone(), tensor.elements()))
                .collect(),
            Holding::Adapted(lora) => (self.model.tensors.iter())
                .filter(|tensor| lora.adapts(&tensor.name))
                .flat_map(|tensor| {
                    let [rows, columns] = [tensor.shape[0], tensor.shape[1]];
                    let side = |kind: &str| format!("{}.{kind}", tensor.name);
                    [
                        (side("lora_A"), lora.rank * columns),
                        (side("lora_B"), rows * lora.rank),
                    ]
                })
                .collect(),
        }
    }

    fn linear(&self, layer: usize, module: &str) -> Linear {
        let name = format!("model.layers.{layer}.{module}_proj.weight");
        // Blocks look alike: the first that has the name tells the shape.
        let found = self.model.tensors.iter().find(|tensor| tensor.name == name);
        let (rows, columns, form) = match found {
            Some(tensor) => (tensor.shape[0], tensor.shape[1], self.form(tensor)),
            None => (0, 0, Form::Dense),
        };
        let lora = self.lora().filter(|lora| lora.adapts(&name));
        Linear {
            lora: lora.map(|lora| (lora.rank, lora.dropout > 0.0)),
            name,
            rows,
            columns,
            form,
        }
    }

    /// Rows of the matrix made where a product reads them.
    fn panel(&self, linear: &Linear) -> usize {
        let merged = linear.lora.is_some_and(|(_, drops)| !drops);
        if linear.form == Form::Dense && !merged || self.tokens <= FEW_TOKENS {
            return 0;
        }
        let panels = (linear.rows * linear.columns).div_ceil(PANEL_VALUES).max(1);
        let panel = linear.rows.div_ceil(panels).next_multiple_of(64);
        4 * panel.min(linear.rows) * linear.columns
    }

    /// The weight in the type of the activations, where that is another.
    fn cast(&self, linear: &Linear) -> usize {
        match self.numbers.activations == self.numbers.weights && linear.form == Form::Dense {
            true => 0,
            false if self.numbers.packs => 0,
            false => linear.rows * linear.columns * self.numbers.activations,
        }
    }

    fn forward(&self, ledger: &mut Ledger, linear: &Linear) -> Array {
        let mask = (linear.lora).filter(|(_, drops)| *drops);
        let dropped = mask.map(|_| self.take(ledger, linear.columns));
        let y = self.take(ledger, linear.rows);
        ledger.pass(self.part, self.panel(linear).max(self.cast(linear)));
        ledger.give_all(dropped);
        y
    }

    /// The gradient of the input; that of the weight, or of the adapter, gathers.
    fn backward(&self, ledger: &mut Ledger, gradients: &mut Gradients, linear: &Linear) -> Array {
        let weights = self.numbers.weights;
        let mut gather = |ledger: &mut Ledger, name: String, values: usize| {
            (gradients.entry(name))
                .or_insert_with(|| ledger.take(Part::Gradients, weights * values));
        };
        let mut on_the_way = Vec::new();
        if let Some((rank, drops)) = linear.lora {
            if drops {
                on_the_way.push(self.take(ledger, linear.columns));
                on_the_way.push(self.take(ledger, linear.columns));
            }
            on_the_way.push(self.take(ledger, rank));
            on_the_way.push(self.take(ledger, rank));
            gather(
                ledger,
                format!("{}.lora_B", linear.name),
                linear.rows * rank,
            );
            gather(
                ledger,
                format!("{}.lora_A", linear.name),
                rank * linear.columns,
            );
        } else if self.holding == Holding::Trained {
            gather(ledger, linear.name.clone(), linear.rows * linear.columns);
        }
        let merged = linear.lora.is_some_and(|(_, drops)| !drops);
        let dx = self.take(ledger, linear.columns);
        if linear.form != Form::Dense || merged || !self.numbers.packs {
            ledger.pass(self.part, self.panel(linear).max(self.cast(linear)));
        } else if linear.rows > PANEL_ROWS {
            let others = linear.rows.div_ceil(PANEL_ROWS) - 1;
            let others: Vec<Array> = (0..others)
                .map(|_| self.take(ledger, linear.columns))
                .collect();
            ledger.give_all(others);
        }
        ledger.give_all(on_the_way);
        dx
    }

    /// x + attention(norm(x)); what the backward pass needs of it if it is kept.
    fn first_half(&self, ledger: &mut Ledger, layer: usize, keeps: bool) -> (Array, Vec<Array>) {
        let normed = self.take(ledger, self.hidden());
        let mut kept: Vec<Array> = ["q", "k", "v"]
            .map(|side| self.forward(ledger, &self.linear(layer, &format!("self_attn.{side}"))))
            .to_vec();
        if self.model.config.qk_norm {
            kept.push(self.take(ledger, self.queries()));
            kept.push(self.take(ledger, self.keys()));
        }
        let out = self.take(ledger, self.queries());
        let heads = self.model.config.num_attention_heads;
        let log_sum_exp = ledger.take(self.part, self.tokens * heads * 4);
        if !keeps {
            ledger.give(log_sum_exp);
            ledger.give_all(kept.drain(..));
        }
        let y = self.forward(ledger, &self.linear(layer, "self_attn.o"));
        match keeps {
            true => kept.extend([out, log_sum_exp]),
            false => ledger.give(out),
        }
        ledger.give(normed);
        (y, kept)
    }

    fn gate_up(&self, ledger: &mut Ledger, layer: usize) -> [Array; 2] {
        ["mlp.gate", "mlp.up"].map(|module| self.forward(ledger, &self.linear(layer, module)))
    }

    /// A block that keeps nothing; its output takes the input's place.
    pub fn run_block(&self, ledger: &mut Ledger, layer: usize, x: Array) -> Array {
        let (middle, _) = self.first_half(ledger, layer, false);
        ledger.give(x);
        let normed = self.take(ledger, self.hidden());
        let both = self.gate_up(ledger, layer);
        let activation = self.take(ledger, self.ffn());
        let y = self.forward(ledger, &self.linear(layer, "mlp.down"));
        ledger.give(activation);
        ledger.give_all(both);
        ledger.give_all([normed, middle]);
        y
    }

    /// A block that keeps what its backward pass needs, or with `checkpoint` only its input.
    pub fn keep_block(
        &self,
        ledger: &mut Ledger,
        layer: usize,
        x: Array,
        checkpoint: bool,
    ) -> (Array, Kept) {
        let (middle, attention) = self.first_half(ledger, layer, !checkpoint);
        let normed = self.take(ledger, self.hidden());
        let mlp = self.gate_up(ledger, layer);
        let activation = self.take(ledger, self.ffn());
        let y = self.forward(ledger, &self.linear(layer, "mlp.down"));
        ledger.give_all([activation, normed]);
        let rest = Rest {
            attention,
            middle,
            mlp,
        };
        let rest = match checkpoint {
            false => Some(rest),
            true => {
                rest.give(ledger);
                None
            }
        };
        (y, Kept { input: x, rest })
    }

    /// The gradient by the block's input from `dy`, that by its output.
    pub fn backward_block(
        &self,
        ledger: &mut Ledger,
        gradients: &mut Gradients,
        layer: usize,
        (dy, kept): (Array, Kept),
    ) -> Array {
        let rest = match kept.rest {
            Some(rest) => rest,
            None => {
                let (middle, attention) = self.first_half(ledger, layer, true);
                let normed = self.take(ledger, self.hidden());
                let mlp = self.gate_up(ledger, layer);
                ledger.give(normed);
                Rest {
                    attention,
                    middle,
                    mlp,
                }
            }
        };
        let mut back = |ledger: &mut Ledger, module: &str| {
            self.backward(ledger, gradients, &self.linear(layer, module))
        };
        let hidden = |ledger: &mut Ledger| self.take(ledger, self.hidden());
        let mut to_the_end = vec![hidden(ledger)];
        // The MLP.
        let activation = self.take(ledger, self.ffn());
        let d_activation = back(ledger, "mlp.down");
        ledger.give(activation);
        let d_both = [self.take(ledger, self.ffn()), self.take(ledger, self.ffn())];
        let dx = back(ledger, "mlp.gate");
        let d_normed = back(ledger, "mlp.up");
        ledger.give(dx);
        ledger.give_all(d_both);
        ledger.give(d_activation);
        ledger.give_all(rest.mlp);
        let d_middle = hidden(ledger);
        ledger.give(d_normed);
        // Attention.
        to_the_end.push(hidden(ledger));
        let d_out = back(ledger, "self_attn.o");
        let d_heads = [self.queries(), self.keys(), self.keys()].map(|w| self.take(ledger, w));
        let sums = ["self_attn.q", "self_attn.k", "self_attn.v"].map(|side| back(ledger, side));
        ledger.give_all(d_heads);
        ledger.give(d_out);
        ledger.give_all(rest.attention);
        let [first, second, d_normed] = sums;
        ledger.give_all([first, second]);
        let dx = hidden(ledger);
        ledger.give(d_normed);
        ledger.give_all([d_middle, dy, rest.middle, kept.input]);
        ledger.give_all(to_the_end);
        dx
    }

    /// The whole forward pass without a tape: the normalised hidden states.
    pub fn hidden_states(&self, ledger: &mut Ledger) -> Array {
        let rotation = self.rotation(ledger);
        let mut x = self.take(ledger, self.hidden());
        for layer in 0..self.model.config.num_hidden_layers {
            x = self.run_block(ledger, layer, x);
        }
        let normed = self.take(ledger, self.hidden());
        ledger.give(x);
        ledger.give_all(rotation);
        normed
    }

    /// Cosines and sines.
    pub fn rotation(&self, ledger: &mut Ledger) -> [Array; 2] {
        [0, 1].map(|_| self.take(ledger, self.model.config.head_dim / 2))
    }
}

impl Rest {
    fn give(self, ledger: &mut Ledger) {
        ledger.give_all(self.attention);
        ledger.give_all(self.mlp);
        ledger.give(self.middle);
    }
}
