//! The stages of a recipe with their digests, and so with the directories that they write.
//!
//! A stage is a pure function of its settings, its inputs and, where it draws random numbers, the
//! seed. Its digest is made of these and of nothing else: neither names, logging nor the device
//! have a part in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::linear::lora::BaseForm;
use serde_json::{Value, json};
use thiserror::Error;

use crate::recipe::{Action, DataConfig, Input, ModelConfig, Origin, Recipe};
use crate::source::{ModelSource, Sha256, Source};

/// Raised when a stage of the same settings and inputs would write something else than before.
pub const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Error)]
pub enum PlanError {
    #[error("the digest of `{0}` is not known")]
    NoDigest(String),
    #[error("the settings of stage {number} cannot be written as JSON")]
    Json {
        number: usize,
        source: serde_json::Error,
    },
}

/// The digests of the declared models and data that a recipe uses.
#[derive(Clone, Debug, Default)]
pub struct InputDigests {
    pub models: BTreeMap<String, Sha256>,
    pub data: BTreeMap<String, Sha256>,
    /// Of directories of stored targets.
    pub targets: BTreeMap<PathBuf, Sha256>,
}

#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// From 0, in the order of the chain.
    pub index: usize,
    pub name: Option<String>,
    pub action: Action,
    pub inputs: Vec<PlannedInput>,
    pub digest: Sha256,
    pub directory: PathBuf,
}

#[derive(Clone, Debug)]
pub struct PlannedInput {
    pub input: Input,
    pub digest: Sha256,
}

/// The digest of a declared model, given that of its source's contents (of a random model there
/// are none) that of the tokenizer's model if it takes another's, and that of its adapter.
pub fn model_digest(
    model: &ModelConfig,
    contents: Option<&Sha256>,
    tokenizer: Option<&Sha256>,
    adapter: Option<&Sha256>,
) -> Sha256 {
    let source = match &model.source {
        ModelSource::Stored(_) => json!(contents),
        ModelSource::Random(random) => json!({ "config": random.config, "seed": random.seed }),
        // Where it is served and at what price makes no other model of it.
        ModelSource::Remote(remote) => json!({ "remote": remote.model }),
    };
    let mut described = json!({ "source": source, "tokenizer": tokenizer });
    if let Some(adapter) = adapter {
        described["adapter"] = json!(adapter);
    }
    if let Some(form) = model.held_as.filter(|form| *form != BaseForm::AsStored) {
        described["held_as"] = json!(form);
    }
    digest(&described)
}

/// The digest of declared data, given that of its source's contents.
pub fn data_digest(
    data: &DataConfig<Source>,
    contents: &Sha256,
) -> Result<Sha256, serde_json::Error> {
    let mut config = serde_json::to_value(data)?;
    config["source"] = json!(contents);
    Ok(digest(&config))
}

/// The stages in order. `out` is the directory that holds the runs, one for each recipe.
pub fn plan(
    recipe: &Recipe,
    digests: &InputDigests,
    out: &Path,
) -> Result<Vec<PlannedStage>, PlanError> {
    let mut planned: Vec<PlannedStage> = Vec::with_capacity(recipe.stages.len());
    for (index, (stage, inputs)) in recipe.stages.iter().zip(&recipe.inputs).enumerate() {
        let inputs = (inputs.iter().cloned())
            .map(|input| {
                let known = match &input.origin {
                    Origin::Model(name) => digests.models.get(name),
                    Origin::Data(name) => digests.data.get(name),
                    Origin::Targets(path) => digests.targets.get(path),
                    Origin::Stage(maker) => planned.get(*maker).map(|stage| &stage.digest),
                };
                let missing = || PlanError::NoDigest(input.reference.name.clone());
                let digest = known.cloned().ok_or_else(missing)?;
                Ok(PlannedInput { input, digest })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let config = serde_json::to_value(&stage.action).map_err(|source| PlanError::Json {
            number: index + 1,
            source,
        })?;
        let digest = digest(&json!({
            "format": FORMAT_VERSION,
            "config": config,
            "inputs": (inputs.iter())
                .map(|input| json!([input.input.reference.key, input.digest]))
                .collect::<Vec<_>>(),
            "seed": stage.action.is_random().then_some(recipe.seed),
        }));
        let directory = format!("{}-{}", stage.action.kind(), digest.short());
        planned.push(PlannedStage {
            index,
            name: stage.name.clone(),
            action: stage.action.clone(),
            inputs,
            directory: out.join(&recipe.name).join(directory),
            digest,
        });
    }
    Ok(planned)
}

fn digest(value: &Value) -> Sha256 {
    let mut text = String::new();
    write_canonical(value, &mut text);
    Sha256::of(text.as_bytes())
}

/// JSON without spaces and with the keys sorted: equal values are equal bytes.
fn write_canonical(value: &Value, out: &mut String) {
    let join = |out: &mut String, i: usize| {
        if i > 0 {
            out.push(',');
        }
    };
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                join(out, i);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                join(out, i);
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"
        seed = 7
        [models.m]
        source = "Cargo.toml"
        [data.d]
        source = "Cargo.toml"
        [[stage]]
        kind = "prune"
        model = "m"
        keep_layers = "every-third"
        as = "start"
        [[stage]]
        kind = "gqa"
        model = "start"
        kv_heads = 1
        as = "fewer"
        [[stage]]
        kind = "sft"
        model = "fewer"
        data = "d"
        steps = 4
        as = "student"
        [[stage]]
        kind = "eval"
        task = "perplexity"
        models = ["m", "student"]
        data = "d"
    "#;

    fn directories(text: &str) -> Vec<String> {
        let recipe = Recipe::parse(Path::new("dir/demo.toml"), text, None, &[]).unwrap();
        let digests = InputDigests {
            models: [
                ("m".to_string(), Sha256::of(b"m")),
                ("n".to_string(), Sha256::of(b"m")),
            ]
            .into(),
            data: [("d".to_string(), Sha256::of(b"d"))].into(),
            targets: BTreeMap::new(),
        };
        let stages = plan(&recipe, &digests, Path::new("runs")).unwrap();
        stages
            .iter()
            .map(|stage| stage.directory.display().to_string())
            .collect()
    }

    #[test]
    fn names_and_bookkeeping_do_not_move_a_stage() {
        let base = directories(RECIPE);
        assert!(base[0].starts_with("runs/demo/prune-"));
        assert_eq!(base[0].len(), "runs/demo/prune-".len() + 12);
        for (from, to) in [
            ("\"start\"", "\"begin\""),
            (
                "steps = 4",
                "steps = 4\ncheckpoint_every = 7\nclip_norm = 1",
            ),
            ("models.m]", "models.n]"),
        ] {
            let mut text = RECIPE.replace(from, to);
            if to.contains("models") {
                text = text.replace("\"m\"", "\"n\"");
            }
            assert_eq!(directories(&text), base, "{from} → {to}");
        }
    }

    #[test]
    fn a_change_moves_the_stage_and_those_after_it() {
        let base = directories(RECIPE);
        for (from, to, moved) in [
            ("every-third", "every-second", [true, true, true, true]),
            (
                "\"every-third\"",
                "\"every-third\"\nffn_width = { keep = 0.5, by = \"activation\", data = \"d\" }",
                [true, true, true, true],
            ),
            ("kv_heads = 1", "kv_heads = 2", [false, true, true, true]),
            (
                "kv_heads = 1",
                "kv_heads = 1\npooling = \"first\"",
                [false, true, true, true],
            ),
            ("steps = 4", "steps = 5", [false, false, true, true]),
            ("seed = 7", "seed = 8", [false, false, true, true]),
            (
                "models = [\"m\", \"student\"]",
                "models = [\"student\", \"m\"]",
                [false, false, false, true],
            ),
        ] {
            let changed = directories(&RECIPE.replace(from, to));
            let found: Vec<bool> = changed.iter().zip(&base).map(|(a, b)| a != b).collect();
            assert_eq!(found, moved, "{from} → {to}");
        }
    }

    #[test]
    fn what_a_teacher_is_asked_moves_its_stage_and_where_and_at_what_cost_does_not() {
        let home = tempfile::tempdir().unwrap();
        let prompt = home.path().join("ask.jinja");
        let schema = home.path().join("schema.json");
        let directory = |from: &str, to: &str| {
            let text = format!(
                r#"
                seed = 7
                [models.m]
                source = {{ kind = "remote", model = "m", endpoints = ["http://a/v1"] }}
                [data.d]
                source = "Cargo.toml"
                [[stage]]
                kind = "generate"
                teacher = "m"
                prompts = "d"
                prompt = "{}"
                schema = "{}"
                sampling = {{ max_tokens = 8 }}
                budget = {{ tokens = 100 }}
                "#,
                prompt.display(),
                schema.display()
            );
            let text = text.replace(from, to);
            let recipe = Recipe::parse(Path::new("dir/demo.toml"), &text, None, &[]).unwrap();
            let model = model_digest(&recipe.models["m"], None, None, None);
            let digests = InputDigests {
                models: [("m".to_string(), model)].into(),
                data: [("d".to_string(), Sha256::of(b"d"))].into(),
                targets: BTreeMap::new(),
            };
            let stages = plan(&recipe, &digests, Path::new("runs")).unwrap();
            stages[0].directory.clone()
        };
        std::fs::write(&prompt, "{{ prompt }}").unwrap();
        std::fs::write(&schema, r#"{ "a": 1, "b": 2 }"#).unwrap();
        let base = directory("", "");
        for (from, to) in [
            ("http://a/v1", "https://b/v1"),
            (
                "\"m\", endpoints",
                "\"m\", key = { env = \"K\" }, endpoints",
            ),
            ("tokens = 100", "tokens = 200"),
        ] {
            assert_eq!(directory(from, to), base, "{to}");
        }
        for (from, to) in [
            ("model = \"m\", ", "model = \"n\", "),
            ("max_tokens = 8", "max_tokens = 9"),
            ("seed = 7", "seed = 8"),
            ("prompts = \"d\"", "prompts = \"d\"\nsystem = \"s\""),
        ] {
            assert_ne!(directory(from, to), base, "{to}");
        }
        // The order of its keys is that of the answer's.
        std::fs::write(&schema, r#"{"a":1,"b":2}"#).unwrap();
        assert_eq!(directory("", ""), base);
        std::fs::write(&schema, r#"{"b":2,"a":1}"#).unwrap();
        assert_ne!(directory("", ""), base);
        std::fs::write(&schema, r#"{"a":1,"b":2}"#).unwrap();
        std::fs::write(&prompt, "{{ prompt }}?").unwrap();
        assert_ne!(directory("", ""), base);
    }

    #[test]
    fn canonical_json_sorts_keys() {
        let mut text = String::new();
        write_canonical(
            &json!({ "b": [1, 2.5, null], "a": { "d": "\"", "c": true } }),
            &mut text,
        );
        assert_eq!(text, r#"{"a":{"c":true,"d":"\""},"b":[1,2.5,null]}"#);
    }
}
