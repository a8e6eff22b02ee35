//! What reads well by itself and contradicts another part of the recipe: found here, and not after hours of work.

use std::path::Path;

use teacher::shards::shard_file::shard_path;
use trainer::loss::LossConfig;

use super::capture::{Capture, CaptureFrom};
use super::distill::{AskedTeacher, TeacherChoice};
use super::eval::Measure;
use super::export::ExportFormat;
use super::invalid::Invalid;
use super::stage::{Action, Stage, Thing};
use super::{Recipe, stage_path};
use crate::source::ModelSource;

impl Recipe {
    pub(super) fn contradictions(&self) -> Vec<Invalid> {
        let mut found = self.random_models_without_tokenizer();
        for (at, stage) in self.stages.iter().enumerate() {
            let mut here = self.beyond_shape(at, stage);
            here.extend(self.missing_price(stage));
            here.extend(self.only_remote(stage));
            here.extend(self.impossible_export(at, stage));
            here.extend(self.taken_path(at, stage));
            here.extend(self.other_targets(at, stage));
            here.extend(self.capture_of_its_teacher(stage));
            here.extend(self.remote_teacher(stage));
            here.extend(self.capture_of_answers(at, stage));
            here.extend(self.columns_of_a_set(stage));
            here.extend(self.examples_among_questions(stage));
            here.extend(self.remote_subjects(stage));
            found.extend(
                here.into_iter()
                    .map(|invalid| invalid.under(&stage_path(at))),
            );
        }
        found
    }

    /// The stage before the `before`-th whose result is called so.
    pub(super) fn maker(&self, name: &str, before: usize) -> Option<(usize, &Action)> {
        let earlier = self.stages[..before].iter();
        let at = earlier
            .rev()
            .position(|stage| stage.name.as_deref() == Some(name))?;
        let at = before - 1 - at;
        Some((at, &self.stages[at].action))
    }

    /// Whether the model behind the name runs on this machine; not known of a name that is nobody's.
    fn is_local(&self, name: &str) -> Option<bool> {
        match self.models.get(name) {
            Some(model) => Some(!matches!(model.source, ModelSource::Remote(_))),
            None => self.maker(name, self.stages.len()).map(|_| true),
        }
    }

    /// Sets of questions and tasks have columns of their own.
    fn columns_of_a_set(&self, stage: &Stage) -> Option<Invalid> {
        let Action::Eval(eval) = &stage.action else {
            return None;
        };
        if let Measure::Perplexity(_) | Measure::Acceptance(_) = eval.measure {
            return None;
        }
        let named = [
            ("data", Some(eval.inputs.data.as_str())),
            ("shots_data", eval.measure.shots_data()),
        ];
        named.into_iter().find_map(|(key, name)| {
            let name = name?;
            self.data.get(name)?.columns.as_ref()?;
            let task = eval.measure.name();
            let says =
                format!("the `columns` of `{name}` have no part in `{task}`, which has its own");
            Some(Invalid::new(key, says).hint("name the same source without `columns`"))
        })
    }

    /// Two names of one source.
    fn examples_among_questions(&self, stage: &Stage) -> Option<Invalid> {
        let Action::Eval(eval) = &stage.action else {
            return None;
        };
        let (data, examples) = (eval.inputs.data.as_str(), eval.measure.shots_data()?);
        let is_same = self.data.get(data)?.source == self.data.get(examples)?.source;
        let says = format!(
            "`{examples}` has the source of `{data}`: worked examples would tell the answers"
        );
        (is_same && data != examples).then(|| Invalid::new("shots_data", says))
    }

    /// Money can only be counted at a known price.
    fn missing_price(&self, stage: &Stage) -> Option<Invalid> {
        let (teacher, budget) = stage.action.asks()?;
        budget.dollars?;
        let says = match self.models.get(teacher).map(|model| &model.source) {
            Some(ModelSource::Remote(remote)) if remote.price.is_some() => return None,
            Some(ModelSource::Remote(_)) => "a budget in dollars needs the model's `price`",
            _ if self.is_local(teacher)? => "a model on this machine costs no dollars",
            _ => return None,
        };
        let key = match &stage.action {
            Action::Distill(_) => "teacher.budget.dollars",
            _ => "budget.dollars",
        };
        Some(Invalid::new(key, says))
    }

    /// What a server does for its models, and a model on this machine does not.
    fn only_remote(&self, stage: &Stage) -> Vec<Invalid> {
        let schema = match &stage.action {
            Action::Generate(stage) => stage.schema.is_some(),
            Action::Exercises(stage) => stage.schema.is_some(),
            Action::CodeQuality(stage) => stage.schema.is_some(),
            Action::Rate(stage) => stage.schema == Some(true),
            Action::Judge(stage) => stage.schema == Some(true),
            _ => false,
        };
        let logprobs = matches!(&stage.action, Action::Generate(stage) if stage.logprobs.is_some());
        let is_local = (stage.action.asks()).and_then(|(teacher, _)| self.is_local(teacher));
        if is_local != Some(true) {
            return Vec::new();
        }
        [
            (
                schema,
                "schema",
                "leave it out, and ask for JSON in the prompt",
            ),
            (
                logprobs,
                "logprobs",
                "leave it out: `distill` sees all log-probabilities of a local teacher",
            ),
        ]
        .into_iter()
        .filter(|(given, _, _)| *given)
        .map(|(_, key, hint)| {
            let says = format!("`{key}` needs a remote teacher, and this one is on this machine");
            Invalid::new(key, says).hint(hint)
        })
        .collect()
    }

    /// An export that would fail only when what it exports has been made.
    fn impossible_export(&self, at: usize, stage: &Stage) -> Option<Invalid> {
        let Action::Export(export) = &stage.action else {
            return None;
        };
        let name = &export.inputs.model;
        let made = match self.models.get(name) {
            Some(model) if matches!(model.source, ModelSource::Random(_)) => None,
            Some(_) => return None,
            None => Some(self.maker(name, at)?.1),
        };
        let what = made.map_or_else(
            || format!("`{name}` is random"),
            |made| {
                format!(
                    "the stage `{}` that makes `{name}` leaves a whole model",
                    made.kind()
                )
            },
        );
        let trained = made.and_then(Action::training);
        let (says, hint) = match export.format {
            ExportFormat::Peft { .. } if trained.is_none_or(|train| train.adapter.is_none()) => (
                format!("{what}: there is no adapter to export"),
                "`safetensors` takes a whole model; an adapter is what a stage `sft`, `distill` or `dpo` with `adapter` leaves",
            ),
            ExportFormat::Gptq { .. } => {
                let says = match made {
                    Some(Action::Quantize(made)) => made.method.beyond_gptq()?,
                    Some(Action::Sft(_) | Action::Distill(_) | Action::Dpo(_)) => {
                        let train = trained?;
                        let aware = train.quantization_aware.as_ref();
                        if train.adapter.is_none()
                            && aware.is_some_and(|aware| aware.described().is_some())
                        {
                            return None;
                        }
                        format!(
                            "the stage `{}` that makes `{name}` leaves no integers to export",
                            made?.kind()
                        )
                    }
                    _ => format!("{what}: there are no integers to export"),
                };
                (
                    says,
                    "a stage `quantize` leaves integers, by its methods gptq, awq and round_to_nearest, or one trained with `quantization_aware = \"8da4w\"`",
                )
            }
            _ => return None,
        };
        Some(Invalid::new("to", says).hint(hint))
    }

    /// Two exports cannot lie in one place.
    fn taken_path(&self, at: usize, stage: &Stage) -> Option<Invalid> {
        let path_of = |stage: &Stage| match &stage.action {
            Action::Export(export) => export.inputs.path.clone(),
            _ => None,
        };
        let path = path_of(stage)?;
        let first = (self.stages[..at].iter())
            .position(|earlier| path_of(earlier).as_ref() == Some(&path))?;
        let line = self.line_of_key(first, "path").unwrap_or_default();
        let says = format!("`{}` is taken by an earlier export", path.display());
        Some(Invalid::new("path", says).hint(format!("{line} writes there")))
    }

    /// Stored targets are of just the tokens that are trained on.
    fn other_targets(&self, at: usize, stage: &Stage) -> Vec<Invalid> {
        let Action::Distill(distill) = &stage.action else {
            return Vec::new();
        };
        let TeacherChoice::Shards(name) = &distill.inputs.teacher else {
            return Vec::new();
        };
        let Some((maker, Action::Capture(capture))) = self.maker(name, at) else {
            return self.no_shards(name).into_iter().collect();
        };
        let mut found = Vec::new();
        let mut compare =
            |same: bool, key: &str, captured_key: &str, ours: String, captured: String| {
                if !same {
                    let line = self.line_of_key(maker, captured_key).unwrap_or_default();
                    let says = format!("{ours} here, but the targets are captured with {captured}");
                    let hint = format!("{line} captures them: both stages take the same");
                    found.push(Invalid::new(key, says).hint(hint));
                }
            };
        let (ours, captured) = (distill.train.sequence_length, capture.sequence_length);
        let length = "sequence_length";
        compare(
            ours == captured,
            length,
            length,
            format!("`sequence_length` is {ours}"),
            captured.to_string(),
        );
        for (i, loss) in distill.inputs.loss.iter().enumerate() {
            if let LossConfig::ForwardKl(kl) = loss {
                compare(
                    kl.temperature == capture.temperature,
                    &format!("loss.{i}.temperature"),
                    "temperature",
                    format!("`temperature` is {}", kl.temperature),
                    capture.temperature.to_string(),
                );
            }
        }
        let names = |mix: &super::DataMix| -> Vec<String> {
            mix.0.iter().map(|share| share.name.clone()).collect()
        };
        let (ours, captured) = (names(&distill.inputs.data), names(&capture.data));
        let is_same = |(a, b): (&String, &String)| {
            a == b || (self.data.contains_key(a) && self.data.get(a) == self.data.get(b))
        };
        compare(
            ours.len() == captured.len() && ours.iter().zip(&captured).all(is_same),
            "data",
            "data",
            format!("`data` is {}", ours.join(", ")),
            captured.join(", "),
        );
        let told = |template: &Option<String>| match template {
            Some(_) => "another one".to_string(),
            None => "the teacher's own".to_string(),
        };
        let ours = match &distill.train.chat_template {
            Some(_) => "`chat_template` is given",
            None => "`chat_template` is left out",
        };
        compare(
            distill.train.chat_template == capture.chat_template,
            "chat_template",
            "chat_template",
            ours.to_string(),
            told(&capture.chat_template),
        );
        found
    }

    /// A directory that is named for its targets and has none.
    fn no_shards(&self, name: &str) -> Option<Invalid> {
        let is_declared = self.models.contains_key(name) || self.data.contains_key(name);
        let is_named = is_declared || self.maker(name, self.stages.len()).is_some();
        let directory = Path::new(name);
        if is_named || !directory.is_dir() || shard_path(directory, 0).exists() {
            return None;
        }
        let says = format!("`{name}`: there are no soft targets here: no shard-00000.safetensors");
        let hint = "name a stage `capture`, or the directory `targets` that one has left";
        Some(Invalid::new("teacher.shards", says).hint(hint))
    }

    /// What a capture asks of its teacher and cannot have.
    fn capture_of_its_teacher(&self, stage: &Stage) -> Option<Invalid> {
        let Action::Capture(capture) = &stage.action else {
            return None;
        };
        match self.models.get(&capture.teacher) {
            Some(model) if matches!(model.source, ModelSource::Remote(_)) => {
                capture.check_remote(model.tokenizer.is_some())
            }
            _ if self.is_local(&capture.teacher)? => Capture::check_local(capture),
            _ => None,
        }
    }

    /// What a teacher behind a server is missing here.
    fn remote_teacher(&self, stage: &Stage) -> Option<Invalid> {
        let Action::Distill(distill) = &stage.action else {
            return None;
        };
        let TeacherChoice::Remote(asked) = &distill.inputs.teacher else {
            return None;
        };
        let model = self.models.get(&asked.remote)?;
        match model.source {
            ModelSource::Remote(_) => AskedTeacher::check_tokenizer(model.tokenizer.is_some()),
            _ => None,
        }
    }

    /// Answers without what a capture reads in them.
    fn capture_of_answers(&self, at: usize, stage: &Stage) -> Vec<Invalid> {
        let Action::Capture(capture) = &stage.action else {
            return Vec::new();
        };
        if capture.from != CaptureFrom::Answers {
            return Vec::new();
        }
        let check = |(key, name): (String, &str)| {
            let (mut maker, mut made) = self.maker(name, at)?;
            while let Some(sifted) = made.sifts() {
                (maker, made) = self.maker(sifted, maker)?;
            }
            let Action::Generate(generate) = made else {
                let says = format!(
                    "the stage `{}` that makes these answers does not store log-probabilities",
                    made.kind()
                );
                let hint = "name the stage `generate` that wrote them, or a sieve of its records";
                return Some(Invalid::new(key, says).hint(hint));
            };
            if let Some(mut invalid) = Capture::check_answers(generate) {
                invalid.key = key;
                return Some(invalid);
            }
            let served = |name: &str| match &self.models.get(name)?.source {
                ModelSource::Remote(remote) => Some(remote.model.clone()),
                _ => None,
            };
            let (ours, wrote) = (served(&capture.teacher)?, served(&generate.teacher)?);
            (ours != wrote).then(|| {
                let says = format!("`{wrote}` writes these answers, and `teacher` is `{ours}`");
                let hint = format!("teacher = \"{}\"", generate.teacher);
                Invalid::new("teacher", says).hint(hint)
            })
        };
        capture.data.names().filter_map(check).collect()
    }

    fn random_models_without_tokenizer(&self) -> Vec<Invalid> {
        let is_used = |name: &str| {
            let mut used = self
                .stages
                .iter()
                .flat_map(|stage| stage.action.references());
            used.any(|used| {
                used.name == name && matches!(used.wanted, Thing::Model | Thing::Writer)
            })
        };
        (self.models.iter())
            .filter(|(name, model)| {
                let is_random = matches!(model.source, ModelSource::Random(_));
                is_random && model.tokenizer.is_none() && is_used(name)
            })
            .map(|(name, _)| {
                Invalid::new(format!("models.{name}"), "a random model has no tokenizer").hint(
                    "add `tokenizer = \"NAME\"` with a declared model whose tokenizer it is to use",
                )
            })
            .collect()
    }
}
