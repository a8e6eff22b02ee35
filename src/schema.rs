//! The JSON schema of recipes, made of the types that read them.
//!
//! Draft 7, which taplo and the editors on it know. What a recipe writes otherwise than serde does (a tagged table with
//! its `kind`, presets with parts of tables) is rewritten here, for all types alike.

mod choice;
mod convert;
mod defaults;
mod describe;
mod examples;
mod keys;
mod references;
mod stages;
mod text;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::recipe::{DataConfig, ModelConfig};
use crate::source::Source;

pub use describe::{accepted, in_toml, names};
pub use examples::example;
pub use keys::{Key, keys};

/// A key that no recipe has.
#[derive(Debug, thiserror::Error)]
#[error("no recipe has a key `{key}`\nhint: {hint}")]
pub struct UnknownKey {
    pub key: String,
    pub hint: String,
}

/// Where definitions lie, and those of presets, which lay parts of tables over a recipe.
const DEFINITIONS: &str = "#/definitions/";
const PRESET: &str = "preset.";

/// The whole schema, as it is committed: a definition a line.
pub fn schema_text() -> String {
    let schema = recipe_schema();
    let lines = |table: &Value, indent: &str| {
        let entries = table.as_object().into_iter().flatten();
        let entries = entries.filter(|(key, _)| *key != "definitions");
        let lines =
            entries.map(|(key, value)| format!("{indent}{}: {value}", Value::from(key.as_str())));
        lines.collect::<Vec<String>>().join(",\n")
    };
    let (sections, definitions) = (lines(&schema, "  "), lines(&schema["definitions"], "    "));
    format!("{{\n{sections},\n  \"definitions\": {{\n{definitions}\n  }}\n}}\n")
}

/// The whole schema.
pub fn recipe_schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.transforms.clear());
    let mut generator = settings.into_generator();
    generator.subschema_for::<ModelConfig>();
    generator.subschema_for::<DataConfig<Source>>();
    let stages = stages::stages(&mut generator);
    let mut plain = Map::from_iter([("Stage".to_string(), stages)]);
    plain.extend(generator.take_definitions(false));
    plain.values_mut().for_each(text::tidy);
    let mut definitions = convert::convert(&plain);
    let whole = root();
    references::settle(&whole, &mut definitions);
    defaults::as_written(&mut definitions);
    let mut schema = whole;
    schema["definitions"] = Value::Object(definitions);
    schema
}

/// The sections of a recipe, which its reader takes one by one.
fn root() -> Value {
    let reference = |name: &str| json!({ "$ref": format!("{DEFINITIONS}{name}") });
    let named = |name: &str, description: &str| {
        json!({
            "description": description,
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
            "additionalProperties": reference(name),
        })
    };
    let seed = json!({
        "description": "Of everything random.",
        "type": "integer",
        "minimum": 0,
        "default": 0,
    });
    let mut seed_of_preset = seed.clone();
    seed_of_preset
        .as_object_mut()
        .map(|seed| seed.remove("default"));
    let of_stages = "Parts of stages, laid over those of the recipe: each by its `as`, by its kind where only one has it, or by its number from 1.";
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Recipe of distill",
        "description": "Named models, named data, and the stages that work on them.",
        "type": "object",
        "properties": {
            "seed": seed,
            "models": named("ModelConfig", "The models of the recipe, each as [models.NAME]."),
            "data": named("DataConfig", "The data of the recipe, each as [data.NAME]."),
            "stage": {
                "description": "What is done, one after the other: each as [[stage]], with its `kind`.",
                "type": "array",
                "minItems": 1,
                "items": reference("Stage"),
            },
            "preset": {
                "description": "Named parts of tables that `--preset NAME` lays over the recipe: [preset.NAME.stage.STAGE], [preset.NAME.data.DATA].",
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {
                        "seed": seed_of_preset,
                        "models": named("preset.ModelConfig", "Parts of models, laid over those of the recipe, or new ones."),
                        "data": named("preset.DataConfig", "Parts of data, laid over those of the recipe, or new ones."),
                        "stage": {
                            "description": of_stages,
                            "type": "object",
                            "additionalProperties": reference("preset.Stage"),
                        },
                    },
                    "additionalProperties": false,
                },
            },
        },
        "required": ["stage"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests;
