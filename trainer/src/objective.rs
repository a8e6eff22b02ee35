//! What a step minimises: losses of tokens, perhaps against a teacher, or a loss of pairs of answers.

pub mod dpo;
pub mod reference;

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use datasets::batch::Batch;
use datasets::pieces::PieceList;
use model::decoder::{Decoder, LayerStates};
use model::linear::lora::DropoutDraw;
use model::linear::{Linear, Weight};
use model::parameter::Parameter;
use model::phase;
use model::random::normal_values;
use teacher::cross_tokenizer::CrossTokenizer;
use teacher::remote_scorer::RemoteScorer;
use teacher::shards::SoftTargets;
use teacher::signal::Signal;
use teacher::teacher::Teacher;

use self::dpo::{Dpo, PairMetrics};
use crate::loss::preference::PAIR_VALUES;
use crate::loss::{HiddenLoss, LossConfig, LossEntries, LossSums, hidden_rows};

/// The objective of a stage.
pub enum Objective<'a> {
    Tokens(TokenObjective<'a>),
    Dpo(Dpo),
}

/// The listed losses, and the teacher that some of them compare with; without one it is supervised fine-tuning.
pub struct TokenObjective<'a> {
    pub entries: LossEntries,
    pub teacher: Option<Guide<'a>>,
    /// How many leading vocabulary entries are real tokens of both models; of the student, where the other's are different.
    pub valid: usize,
}

/// Where the signal of a batch comes from.
#[derive(Clone, Copy)]
pub enum Guide<'a> {
    Model(&'a dyn Teacher),
    /// A model with another tokenizer.
    Across(&'a CrossTokenizer<'a>),
    /// A model behind a server.
    Asked(&'a RemoteScorer<'a>),
    /// Targets on disk, and the pieces of the data that is trained on.
    Stored(&'a SoftTargets, &'a PieceList),
}

/// What is trained: the student, and a projection for each pair of layers whose widths differ.
#[derive(Debug, Clone)]
pub struct Trainee {
    pub decoder: Decoder,
    pub projections: BTreeMap<[usize; 2], Linear>,
    /// The seed and the step of what adapters drop.
    pub dropout: DropoutDraw,
}

impl Trainee {
    pub fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            projections: BTreeMap::new(),
            dropout: DropoutDraw::default(),
        }
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let projections = self.projections.values().flat_map(Linear::parameters);
        self.decoder.parameters().chain(projections)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let projections = self
            .projections
            .values_mut()
            .flat_map(Linear::parameters_mut);
        self.decoder.parameters_mut().chain(projections)
    }

    /// Adds the projections from the student's width to the teacher's that hidden-state losses need
    /// (FitNets, arXiv 1412.6550): the student is projected, because a projected teacher could be
    /// matched by projecting it to nothing.
    pub fn add_projections(&mut self, entries: &LossEntries, teacher_width: usize, seed: u64) {
        let width = self.decoder.config.hidden_size;
        if width == teacher_width {
            return;
        }
        let pairs = entries
            .configs()
            .iter()
            .filter_map(LossConfig::layers)
            .flatten();
        for &[student, teacher] in pairs {
            let name = format!("projection.{student}.{teacher}.weight");
            let deviation = 1.0 / (width as f64).sqrt();
            let values = normal_values(teacher_width * width, seed, &name, deviation);
            let data = TensorData::new(values, [teacher_width, width]);
            let value = Tensor::from_data(data, (&self.decoder.device(), DType::F32));
            let weight = Weight::Dense(Parameter::new(name, vec![teacher_width, width], value));
            self.projections
                .insert([student, teacher], Linear::new(weight, None));
        }
    }
}

impl Objective<'_> {
    /// The losses by name, in the order of their values.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Tokens(tokens) => {
                let configs = tokens.entries.configs().iter();
                configs.map(LossConfig::name).collect()
            }
            Self::Dpo(dpo) => vec![dpo.loss.name()],
        }
    }

    /// How much each value counts in what is minimised; of a pair the first is its loss, the others only tell.
    pub fn weights(&self) -> Vec<f64> {
        match self {
            Self::Tokens(tokens) => {
                let configs = tokens.entries.configs().iter();
                configs.map(LossConfig::weight).collect()
            }
            Self::Dpo(_) => (0..PAIR_VALUES)
                .map(|i| f64::from(u8::from(i == 0)))
                .collect(),
        }
    }

    /// What is minimised.
    pub fn total(&self, values: &[f64]) -> f64 {
        match self {
            Self::Tokens(tokens) => tokens.entries.total(values),
            Self::Dpo(_) => values[0],
        }
    }

    /// What values are means over: supervised tokens, or pairs.
    pub fn units(&self, batch: &Batch) -> usize {
        match self {
            Self::Tokens(_) => batch.supervised_count(),
            Self::Dpo(_) => batch.pieces.len() / 2,
        }
    }

    /// What the values of `units` pairs with `tokens` supervised tokens say; None of other values.
    pub fn pair_metrics(&self, values: &[f64], units: usize, tokens: usize) -> Option<PairMetrics> {
        match self {
            Self::Tokens(_) => None,
            Self::Dpo(dpo) => Some(dpo.metrics(values, units, tokens)),
        }
    }
}

impl TokenObjective<'_> {
    /// The layers whose outputs the losses compare, of student and of teacher.
    pub fn layers(&self) -> (Vec<usize>, Vec<usize>) {
        let pairs = self
            .entries
            .configs()
            .iter()
            .filter_map(LossConfig::layers)
            .flatten();
        pairs.map(|&[student, teacher]| (student, teacher)).unzip()
    }

    /// The hidden-state losses: adds to `sums`, gathers the projections' gradients and returns the
    /// gradients by the student's layer outputs.
    pub fn hidden_losses(
        &self,
        projections: &mut BTreeMap<[usize; 2], Linear>,
        student: &LayerStates,
        signal: &Signal,
        supervised: &[bool],
        scale: f64,
        sums: &mut LossSums,
    ) -> LayerStates {
        let _phase = phase!("hidden losses");
        let mut gradients = LayerStates::default();
        for (slot, entry) in self.entries.configs().iter().enumerate() {
            let loss = match entry {
                LossConfig::HiddenMse(_) => HiddenLoss::Mse,
                LossConfig::HiddenCosine(_) => HiddenLoss::Cosine,
                _ => continue,
            };
            for pair in entry.layers().unwrap_or_default() {
                let (Some(a), Some(b)) = (student.get(pair[0]), signal.layers.get(pair[1])) else {
                    continue;
                };
                let weight = scale * entry.weight();
                let to = (&mut *sums, slot);
                let gradient = match projections.get_mut(pair) {
                    Some(projection) => {
                        let projected = projection.forward(a);
                        let d = compare(loss, &projected, b, supervised, weight, to);
                        projection.backward(&d, a)
                    }
                    None => compare(loss, a, b, supervised, weight, to),
                };
                add(&mut gradients, pair[0], gradient);
            }
        }
        gradients
    }
}

/// Adds the loss between rows of equal width to its slot of the sums and returns its gradient by `a`.
fn compare(
    loss: HiddenLoss,
    a: &Tensor<2>,
    b: &Tensor<2>,
    supervised: &[bool],
    scale: f64,
    (sums, slot): (&mut LossSums, usize),
) -> Tensor<2> {
    let values = match sums {
        LossSums::Host(values) => values,
        #[cfg(feature = "cube")]
        LossSums::Device(sums) => {
            let to = (&mut **sums, slot);
            return crate::loss::cube::hidden::hidden_rows(loss, a, b, supervised, scale, to);
        }
        #[cfg(not(feature = "cube"))]
        LossSums::Device(_) => unreachable!("this program knows no device"),
    };
    let host = |x: &Tensor<2>| -> Vec<f32> {
        let data = x.clone().cast(DType::F32).into_data();
        data.try_to_vec().expect("the states were cast to f32")
    };
    let shape = a.dims();
    let mut gradient = vec![0.0_f32; shape[0] * shape[1]];
    let scale = scale as f32;
    values[slot] += hidden_rows(
        loss,
        shape[1],
        &host(a),
        &host(b),
        supervised,
        scale,
        &mut gradient,
    );
    let data = TensorData::new(gradient, shape);
    Tensor::<2>::from_data(data, (&a.device(), DType::F32)).cast(a.dtype())
}

fn add(gradients: &mut LayerStates, layer: usize, gradient: Tensor<2>) {
    match gradients.0.iter_mut().find(|(known, _)| *known == layer) {
        Some((_, sum)) => *sum = sum.clone() + gradient,
        None => gradients.0.push((layer, gradient)),
    }
}
