//! The shape of a model, without its weights: enough to say what it takes.

use std::path::Path;

use anyhow::{Result, bail};
use datasets::template_tokens::TemplateTokens;
use datasets::tokenizer_files::chat_template;
use model::config::DecoderConfig;
use model::linear::lora::{BaseForm, LoraConfig, matches_module};
use model::quant::block_type::GgmlType;
use model::weights::checkpoint::Checkpoint;
use model::weights::names::{expected_tensors, is_linear};
use model::weights::peft::PeftAdapter;

/// A model as a stage finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    pub config: DecoderConfig,
    /// In checkpoint order.
    pub tensors: Vec<TensorShape>,
    /// Beside the model.
    pub adapter: Option<LoraShape>,
    /// Said of it, where it is only read.
    pub held_as: Option<BaseForm>,
    /// Whether the tokenizer is read from a GGUF file, not from a `tokenizer.json`.
    pub gguf_tokenizer: bool,
    /// What its chat template adds, where it has one.
    pub template: Option<TemplateTokens>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
    /// The blocks of its file, which a model that is only read keeps.
    pub kind: Option<GgmlType>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LoraShape {
    pub rank: usize,
    pub targets: Vec<String>,
    pub dropout: f64,
    pub base: BaseForm,
}

/// How a matrix is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Dense,
    Blocks(GgmlType),
    Nf4,
}

impl TensorShape {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// In a frozen model.
    pub fn frozen_form(&self, base: BaseForm) -> Form {
        match (base, self.kind) {
            _ if self.shape.len() != 2 => Form::Dense,
            (BaseForm::Nf4, _) if is_linear(&self.name) => Form::Nf4,
            (BaseForm::F32, _) | (_, None) => Form::Dense,
            (_, Some(kind)) => Form::Blocks(kind),
        }
    }

    /// Of its file what is mapped while it is read: blocks are copied as a whole, and values of `f32` some at a time.
    pub fn mapped_bytes(&self) -> usize {
        let stored = |kind: GgmlType| kind.bytes_of(self.elements());
        self.kind.and_then(stored).unwrap_or(0)
    }

    /// In memory, where dense values take `dense` bytes each.
    pub fn bytes(&self, form: Form, dense: usize) -> usize {
        let values = self.elements();
        match form {
            Form::Dense => dense * values,
            Form::Blocks(kind) => kind.bytes_of(values).unwrap_or(dense * values),
            // 4 bits a value, a byte of scale a block of 64, 4 bytes a 256 blocks (arXiv 2305.14314).
            Form::Nf4 => values / 2 + values / 64 + values / (64 * 256) * 4,
        }
    }
}

impl LoraShape {
    pub fn of(config: &LoraConfig) -> Self {
        Self {
            rank: config.rank,
            targets: config.targets.clone(),
            dropout: config.dropout,
            base: config.base,
        }
    }

    /// Whether the matrix of this name gets an A and a B.
    pub fn adapts(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        is_linear(name) && (self.targets.iter()).any(|pattern| matches_module(pattern, module))
    }
}

impl ModelShape {
    /// A model that holds every value in `f32`.
    pub fn dense(config: DecoderConfig) -> Self {
        let tensor = |(name, shape)| TensorShape {
            name,
            shape,
            kind: None,
        };
        Self {
            tensors: expected_tensors(&config).into_iter().map(tensor).collect(),
            config,
            adapter: None,
            held_as: None,
            gguf_tokenizer: false,
            template: None,
        }
    }

    /// How its matrices are held where it is only read.
    pub fn form(&self) -> BaseForm {
        let beneath = self.adapter.as_ref().map(|adapter| adapter.base);
        self.held_as.or(beneath).unwrap_or_default()
    }

    /// Reads the headers of a model on this machine: a checkpoint, or an adapter with the base that it names. Whether an
    /// adapter was trained on this base is not looked at, which would read every byte.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn open(path: &Path, beside: Option<&Path>) -> Result<Self> {
        let is_adapter = PeftAdapter::is_at(path) && !path.join("config.json").exists();
        let beside = match (is_adapter, beside) {
            (true, _) => Some(path),
            (false, beside) => beside,
        };
        let Some(directory) = beside else {
            return Ok(Self::of(&Checkpoint::open(path)?, None));
        };
        let adapter = PeftAdapter::open(directory)?;
        let base = match (is_adapter, adapter.base()) {
            (false, _) => path.to_owned(),
            (true, Some(base)) => base.path_from(directory),
            (true, None) => bail!("{}: it does not say where its base is", path.display()),
        };
        Ok(Self::of(&Checkpoint::open(&base)?, Some(&adapter)))
    }

    fn of(checkpoint: &Checkpoint, adapter: Option<&PeftAdapter>) -> Self {
        let mut shape = Self::dense(checkpoint.config().clone());
        shape.gguf_tokenizer = checkpoint.gguf().is_some();
        shape.template = template_of(checkpoint);
        for tensor in &mut shape.tensors {
            tensor.kind = checkpoint.base_block_type(&tensor.name);
        }
        shape.adapter = adapter.map(|adapter| {
            let modules = (shape.tensors.iter())
                .filter_map(|tensor| tensor.name.strip_suffix(".weight"))
                .filter(|module| adapter.adapts(module));
            LoraShape {
                rank: adapter.rank(),
                targets: modules.map(str::to_owned).collect(),
                dropout: 0.0,
                base: adapter.form(),
            }
        });
        shape
    }

    /// All values, without those of an adapter.
    pub fn parameters(&self) -> u64 {
        let counts = self.tensors.iter().map(TensorShape::elements);
        counts.sum::<usize>() as u64
    }

    /// The values of all matrices.
    pub fn matrix_values(&self) -> u64 {
        let matrices = self.tensors.iter().filter(|tensor| tensor.shape.len() == 2);
        matrices.map(TensorShape::elements).sum::<usize>() as u64
    }

    /// The values of A and B on all layers that `lora` names.
    pub fn lora_parameters(&self, lora: &LoraShape) -> u64 {
        let adapted = (self.tensors.iter()).filter(|tensor| lora.adapts(&tensor.name));
        let sides = adapted.map(|tensor| tensor.shape.iter().sum::<usize>() * lora.rank);
        sides.sum::<usize>() as u64
    }

    /// Whether its linear layers can be held in NF4, and take less than half of what they do.
    pub fn gains_by_nf4(&self) -> bool {
        let linear = || self.tensors.iter().filter(|tensor| is_linear(&tensor.name));
        let fits = linear().all(|tensor| tensor.shape.last().is_some_and(|n| n.is_multiple_of(64)));
        let bytes = |form| -> usize {
            let sizes = linear().map(|tensor| tensor.bytes(tensor.frozen_form(form), 4));
            sizes.sum()
        };
        fits && 2 * bytes(BaseForm::Nf4) < bytes(self.form())
    }

    /// Bytes of the model held frozen, as its file has it.
    pub fn frozen_bytes(&self, base: BaseForm) -> u64 {
        let held = (self.tensors.iter()).map(|tensor| tensor.bytes(tensor.frozen_form(base), 4));
        held.sum::<usize>() as u64
    }

    /// Bytes of its files that are mapped while it is opened: of one tensor, and of all of them and the adapter's where an
    /// adapter's base is known by the digest of its file.
    pub fn mapped_bytes(&self) -> usize {
        match &self.adapter {
            Some(lora) => {
                let stored = self.frozen_bytes(BaseForm::AsStored);
                (stored + 4 * self.lora_parameters(lora)) as usize
            }
            None => {
                let mapped = self.tensors.iter().map(TensorShape::mapped_bytes);
                mapped.max().unwrap_or(0)
            }
        }
    }

    /// Bytes of its largest tensor as it is stored.
    pub fn largest_stored(&self) -> usize {
        let stored = |tensor: &TensorShape| tensor.bytes(tensor.frozen_form(BaseForm::AsStored), 4);
        self.tensors.iter().map(stored).max().unwrap_or(0)
    }

    /// The shape with another configuration: layers, heads or widths are gone, and all is `f32`.
    pub fn cut(&self, change: impl FnOnce(&mut DecoderConfig)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        let full = self.config.sliding_windows.clone();
        let layers = config.num_hidden_layers;
        config.sliding_windows = (0..layers)
            .map(|layer| full.get(layer).copied().flatten())
            .collect();
        Self {
            template: self.template,
            ..Self::dense(config)
        }
    }

    /// After training: dense, or the same beside an adapter.
    pub fn trained(&self, lora: Option<&LoraShape>) -> Self {
        match lora {
            None => self.cut(|_| {}),
            Some(lora) => Self {
                adapter: Some(lora.clone()),
                held_as: None,
                gguf_tokenizer: false,
                ..self.clone()
            },
        }
    }
}

/// What the chat template in a model's files adds; nothing where there is none, or it cannot be read.
fn template_of(checkpoint: &Checkpoint) -> Option<TemplateTokens> {
    let source = match checkpoint.gguf() {
        Some(gguf) => gguf.string("tokenizer.chat_template").ok()??.to_owned(),
        None => chat_template(checkpoint.path()).ok()??,
    };
    TemplateTokens::of(&source)
}
