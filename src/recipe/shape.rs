//! The shape of a random model, followed through the stages: what has no room in it is told before it is there.

use model::config::DecoderConfig;
use trainer::config::TrainConfig;

use super::Recipe;
use super::distill::TeacherChoice;
use super::eval::Measure;
use super::invalid::Invalid;
use super::stage::{Action, Stage};
use crate::source::ModelSource;

/// What is known of a random model, and of what stages make of it, before it is there.
struct Shape {
    layers: usize,
    kv_heads: usize,
    context: usize,
}

impl From<DecoderConfig> for Shape {
    fn from(config: DecoderConfig) -> Self {
        Self {
            layers: config.num_hidden_layers,
            kv_heads: config.num_key_value_heads,
            context: config.max_position_embeddings,
        }
    }
}

impl Recipe {
    fn shape(&self, name: &str, before: usize) -> Option<Shape> {
        if let Some(model) = self.models.get(name) {
            let ModelSource::Random(random) = &model.source else {
                return None;
            };
            return random.decoder_config().ok().map(Shape::from);
        }
        let (at, made) = self.maker(name, before)?;
        let same = |name: &str| self.shape(name, at);
        match made {
            Action::Prune(prune) => {
                let shape = same(&prune.model)?;
                let keep = prune.keep_layers.as_ref();
                let layers = keep.map_or(Ok(shape.layers), |keep| keep.count_of(shape.layers));
                Some(Shape {
                    layers: layers.ok()?,
                    ..shape
                })
            }
            Action::Gqa(gqa) => same(&gqa.model).map(|shape| Shape {
                kv_heads: gqa.kv_heads,
                ..shape
            }),
            Action::Sft(sft) => same(&sft.inputs.model),
            Action::Distill(distill) => same(&distill.inputs.student),
            Action::Dpo(dpo) => same(&dpo.inputs.model),
            Action::Quantize(quantize) => same(&quantize.model),
            _ => None,
        }
    }

    /// What a model of known shape has no room for.
    pub(super) fn beyond_shape(&self, at: usize, stage: &Stage) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut length = |key: &str, tokens: Option<usize>, name: &str| {
            let context = self.shape(name, at).map(|shape| shape.context);
            if let (Some(tokens), Some(context)) = (tokens, context)
                && tokens > context
            {
                let says = format!("{tokens} tokens, but `{name}` sees {context} at most");
                let hint = "lower it, or raise `max_position_embeddings` in the model's `config`";
                found.push(Invalid::new(key, says).hint(hint));
            }
        };
        match &stage.action {
            Action::Capture(stage) => {
                length(
                    "sequence_length",
                    Some(stage.sequence_length),
                    &stage.teacher,
                );
            }
            Action::Sft(stage) => length(
                "sequence_length",
                Some(stage.train.sequence_length),
                &stage.inputs.model,
            ),
            Action::Distill(stage) => {
                let tokens = Some(stage.train.sequence_length);
                length("sequence_length", tokens, &stage.inputs.student);
                if let TeacherChoice::Model(teacher) = &stage.inputs.teacher
                    && *teacher != stage.inputs.student
                {
                    length("sequence_length", tokens, teacher);
                }
            }
            Action::Dpo(stage) => {
                let tokens = Some(stage.train.sequence_length);
                length("sequence_length", tokens, &stage.inputs.model);
                if let Some(reference) = &stage.inputs.reference
                    && *reference != stage.inputs.model
                {
                    length("sequence_length", tokens, reference);
                }
            }
            Action::Eval(stage) => {
                if let Measure::Perplexity(windows) = &stage.measure {
                    let models = stage.inputs.models.iter();
                    models.for_each(|model| length("window", windows.window, model));
                }
            }
            Action::Quantize(stage) => {
                length("window", stage.window, &stage.model);
                let calibration = stage.calibration.as_ref();
                let tokens = calibration.map(|calibration| calibration.sequence_length);
                length("calibration.sequence_length", tokens, &stage.model);
            }
            _ => {}
        }
        match &stage.action {
            Action::Prune(prune) => {
                let shape = self.shape(&prune.model, at);
                if let (Some(shape), Some(keep)) = (shape, &prune.keep_layers)
                    && let Err(beyond) = keep.count_of(shape.layers)
                {
                    found.push(beyond);
                }
            }
            Action::Gqa(gqa) => {
                if let Some(Shape { kv_heads, .. }) = self.shape(&gqa.model, at)
                    && gqa.kv_heads > 0
                    && !kv_heads.is_multiple_of(gqa.kv_heads)
                {
                    let says = format!(
                        "`kv_heads` must divide the {kv_heads} key/value heads of `{}`",
                        gqa.model
                    );
                    found.push(Invalid::new("kv_heads", says));
                }
            }
            Action::Sft(sft) => {
                found.extend(self.random_adapter(&sft.inputs.model, &sft.train));
            }
            Action::Distill(distill) => {
                found.extend(self.random_adapter(&distill.inputs.student, &distill.train));
            }
            Action::Dpo(dpo) => {
                found.extend(self.random_adapter(&dpo.inputs.model, &dpo.train));
            }
            _ => {}
        }
        found
    }

    fn random_adapter(&self, name: &str, train: &TrainConfig) -> Option<Invalid> {
        let model = self.models.get(name)?;
        let is_random = matches!(model.source, ModelSource::Random(_));
        // With both, that is told first.
        let has_adapter = train.adapter.is_some() && train.quantization_aware.is_none();
        (has_adapter && is_random).then(|| {
            let says = format!("an adapter needs a model that is stored, and `{name}` is random");
            Invalid::new("adapter", says).hint("leave out `adapter`")
        })
    }
}
