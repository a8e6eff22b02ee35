//! Which data is seen by which models, and in sequences of what length.

use datasets::packing::Packing;

use crate::recipe::{Action, Measure, Origin, Recipe, Stage, Thing};

/// Data as the stages that share a tokenizer and a sequence length see it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub data: String,
    /// The declared model whose tokenizer is used.
    pub model: String,
    /// Whether it is read as pairs of answers.
    pub pairs: bool,
    /// None where data is only scored.
    pub sequence: Option<Sequence>,
    /// The stages, as the user may call them.
    pub stages: Vec<String>,
}

/// How a training stage cuts samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    pub length: usize,
    pub packing: Packing,
    pub chat_template: Option<String>,
}

impl View {
    /// `=== train, by the tokenizer of teacher, in sequences of 512 tokens (distill student, sft baseline)`
    pub fn heading(&self) -> String {
        let sequences = self.sequence.as_ref().map_or_else(String::new, |sequence| {
            format!(", in sequences of {} tokens", sequence.length)
        });
        format!(
            "=== {}, by the tokenizer of {}{sequences} ({})",
            self.data,
            self.model,
            self.stages.join(", ")
        )
    }
}

/// The views in the order of the stages. Data that is trained on is not shown again where it is only scored.
pub fn views(recipe: &Recipe) -> Vec<View> {
    let mut found: Vec<View> = Vec::new();
    for (at, stage) in recipe.stages.iter().enumerate() {
        if !reads_tokens(&stage.action) {
            continue;
        }
        let Some(model) = declared_model(recipe, at) else {
            continue;
        };
        for input in &recipe.inputs[at] {
            let Origin::Data(data) = &input.origin else {
                continue;
            };
            // What the student answers is no sample that it learns.
            if input.reference.wanted == Thing::Questions {
                continue;
            }
            let trained_on = input.reference.key.starts_with("data");
            let sequence = (stage.action.training())
                .filter(|_| trained_on)
                .map(|train| Sequence {
                    length: train.sequence_length,
                    packing: train.packing,
                    chat_template: train.chat_template.clone(),
                });
            let view = View {
                data: data.clone(),
                model: model.clone(),
                pairs: input.reference.wanted == Thing::Pairs,
                sequence,
                stages: vec![called(at, stage)],
            };
            let same = |other: &&mut View| {
                (&other.data, &other.model, other.pairs, &other.sequence)
                    == (&view.data, &view.model, view.pairs, &view.sequence)
            };
            match found.iter_mut().find(same) {
                Some(known) => known.stages.extend(view.stages),
                None => found.push(view),
            }
        }
    }
    let trained: Vec<(String, bool)> = (found.iter())
        .filter(|view| view.sequence.is_some())
        .map(|view| (view.data.clone(), view.pairs))
        .collect();
    let known = |view: &View| trained.contains(&(view.data.clone(), view.pairs));
    found.retain(|view| view.sequence.is_some() || !known(view));
    found
}

/// Whether a model here sees the tokens of the data. Stages that write or sift data read it as text, and evaluations with
/// questions make prompts of their own of it.
fn reads_tokens(action: &Action) -> bool {
    match action {
        Action::Prune(_) | Action::Gqa(_) | Action::Quantize(_) => true,
        Action::Sft(_) | Action::Distill(_) | Action::Dpo(_) | Action::Capture(_) => true,
        Action::Export(_) => true,
        Action::Eval(eval) => {
            matches!(
                eval.measure,
                Measure::Perplexity(_) | Measure::Acceptance(_)
            )
        }
        Action::Generate(_) | Action::Rate(_) | Action::Judge(_) | Action::Exercises(_) => false,
        Action::CodeQuality(_) => false,
        Action::Filter(_) | Action::Dedup(_) | Action::Decontaminate(_) => false,
    }
}

fn called(at: usize, stage: &Stage) -> String {
    let kind = stage.action.kind();
    match &stage.name {
        Some(name) => format!("{kind} {name}"),
        None => format!("stage {}, {kind}", at + 1),
    }
}

/// The declared model that the stage's first model descends from: they share the tokenizer.
fn declared_model(recipe: &Recipe, stage: usize) -> Option<String> {
    (recipe.inputs[stage].iter()).find_map(|input| match &input.origin {
        Origin::Model(name) => Some(name.clone()),
        Origin::Stage(maker) => declared_model(recipe, *maker),
        Origin::Data(_) | Origin::Targets(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ModelSource;
    use std::path::Path;

    const RECIPE: &str = r#"
        [models.big]
        source = "Cargo.toml"
        [models.small]
        source = "Cargo.toml"
        [data.train]
        source = "Cargo.toml"
        [data.held]
        source = "Cargo.toml"
        [[stage]]
        kind = "prune"
        model = "small"
        keep_layers = "every-third"
        as = "start"
        [[stage]]
        kind = "distill"
        student = "start"
        teacher = "big"
        data = "train"
        heldout = "held"
        evaluate_every = 1
        loss = [{ kind = "forward_kl" }]
        steps = 4
        tokens_per_step = 512
        sequence_length = 256
        as = "student"
        [[stage]]
        kind = "sft"
        model = "start"
        data = "train"
        steps = 4
        tokens_per_step = 512
        sequence_length = 256
        [[stage]]
        kind = "eval"
        task = "perplexity"
        models = ["student", "big"]
        data = "train"
    "#;

    #[test]
    fn data_is_seen_through_the_students_tokenizer_once_for_each_length() {
        let recipe = Recipe::parse(Path::new("r.toml"), RECIPE, None, &[]).unwrap();
        let headings: Vec<String> = views(&recipe).iter().map(View::heading).collect();
        let expected = [
            "=== train, by the tokenizer of small, in sequences of 256 tokens (distill student, stage 3, sft)",
            "=== held, by the tokenizer of small (distill student)",
        ];
        assert_eq!(headings, expected);
    }

    /// A model behind a server is named only where the recipe says whose tokenizer it has.
    #[test]
    fn every_shipped_recipe_is_seen_through_tokenizers_that_are_here() {
        let mut seen = 0;
        for entry in std::fs::read_dir("recipes").unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let recipe = Recipe::load(&path, None, &[]).unwrap();
            for view in views(&recipe) {
                let mut model = &recipe.models[&view.model];
                while let Some(other) = &model.tokenizer {
                    model = &recipe.models[other];
                }
                let heading = view.heading();
                assert!(
                    matches!(model.source, ModelSource::Stored(_)),
                    "{}: {heading}",
                    path.display()
                );
                seen += 1;
            }
        }
        assert!(seen > 0);
    }

    #[test]
    fn what_is_only_written_or_asked_about_is_not_shown() {
        let written = r#"
            [models.here]
            source = "Cargo.toml"
            [models.server]
            source = { kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"] }
            [data.questions]
            source = "Cargo.toml"
            [data.train]
            source = "Cargo.toml"
            [[stage]]
            kind = "generate"
            teacher = "server"
            prompts = "questions"
            as = "answers"
            [[stage]]
            kind = "generate"
            teacher = "here"
            prompts = "questions"
            [[stage]]
            kind = "decontaminate"
            data = "answers"
            against = ["train"]
            [[stage]]
            kind = "distill"
            student = "here"
            teacher = "here"
            data = "train"
            loss = [{ kind = "forward_kl" }]
            on_policy = { prompts = "questions" }
            steps = 4
            tokens_per_step = 512
            sequence_length = 256
            [[stage]]
            kind = "eval"
            task = "human_eval"
            models = ["here"]
            data = "questions"
        "#;
        let recipe = Recipe::parse(Path::new("r.toml"), written, None, &[]).unwrap();
        let headings: Vec<String> = views(&recipe).iter().map(View::heading).collect();
        let expected =
            ["=== train, by the tokenizer of here, in sequences of 256 tokens (stage 4, distill)"];
        assert_eq!(headings, expected);
    }
}
