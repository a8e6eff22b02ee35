//! What the stage `export` takes: which model goes where, in which format.

use std::fmt;
use std::path::PathBuf;

use model::quant::block_type::GgmlType;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::invalid::{Invalid, require};
use super::problem::Problem;
use super::read::Parts;

#[derive(Clone, Debug, Serialize)]
pub struct Export {
    #[serde(flatten)]
    pub inputs: ExportInputs,
    #[serde(flatten)]
    pub format: ExportFormat,
}

/// Writes a model in a format that other programs read.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ExportInputs {
    /// The model that is exported.
    #[serde(skip_serializing)]
    pub model: String,
    /// Where to write. Into the stage's own directory when left out.
    #[schemars(length(min = 1))]
    pub path: Option<PathBuf>,
    /// Compare the result with its source: true, or a table. Not done when left out.
    #[serde(
        default,
        deserialize_with = "verify",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "verify_schema")]
    pub verify: Option<Verify>,
}

/// A format with what it takes. The key `to` tells them apart.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum ExportFormat {
    Safetensors {
        dtype: FloatType,
    },
    Gguf {
        #[serde(rename = "type")]
        kind: GgmlType,
    },
    /// The model's adapter alone.
    Peft {
        dtype: FloatType,
    },
    /// Linear layers as the integers that a stage `quantize` has left, the rest in `dtype`.
    Gptq {
        dtype: FloatType,
    },
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportTo {
    /// A directory in Hugging Face's layout
    Safetensors,
    /// A GGUF file
    Gguf,
    /// The model's adapter alone
    Peft,
    /// The integers of a quantised model in GPTQ's layout
    Gptq,
}

#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FloatType {
    #[default]
    F32,
    F16,
    Bf16,
}

/// How the result is compared with its source: `true`, or a table.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Text to compare on. One that comes with the program when left out.
    #[serde(skip_serializing)]
    pub data: Option<String>,
    /// Largest divergence that passes, nats a token. By the format when left out.
    #[schemars(range(min = 0))]
    pub max_kl: Option<f64>,
}

impl Export {
    pub(super) fn read(parts: &mut Parts) -> Result<Self, Problem> {
        #[derive(Deserialize, JsonSchema)]
        struct To {
            /// The format.
            to: ExportTo,
        }
        #[derive(Deserialize, JsonSchema)]
        struct Safetensors {
            /// The type of the numbers.
            #[serde(default)]
            dtype: FloatType,
        }
        #[derive(Deserialize, JsonSchema)]
        struct Gguf {
            /// The type of the linear layers' blocks.
            r#type: GgmlType,
        }
        let inputs = parts.take();
        let format = parts.take::<To>().and_then(|format| match format.to {
            ExportTo::Safetensors => parts
                .take()
                .map(|Safetensors { dtype }| ExportFormat::Safetensors { dtype }),
            ExportTo::Peft => parts
                .take()
                .map(|Safetensors { dtype }| ExportFormat::Peft { dtype }),
            ExportTo::Gptq => parts
                .take()
                .map(|Safetensors { dtype }| ExportFormat::Gptq { dtype }),
            ExportTo::Gguf => parts
                .take()
                .map(|Gguf { r#type: kind }| ExportFormat::Gguf { kind }),
        });
        Ok(Self {
            inputs: inputs?,
            format: format?,
        })
    }

    /// The name of what is written in the stage's own directory.
    pub fn own_name(&self) -> &'static str {
        match self.format {
            ExportFormat::Safetensors { .. }
            | ExportFormat::Peft { .. }
            | ExportFormat::Gptq { .. } => "model",
            ExportFormat::Gguf { .. } => "model.gguf",
        }
    }

    pub(super) fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let max_kl = self.inputs.verify.as_ref().and_then(|verify| verify.max_kl);
        let path = self.inputs.path.as_ref();
        let is_path = path.is_none_or(|path| !path.as_os_str().is_empty());
        require(&mut found, is_path, "path", "`path` is empty");
        let says = "`max_kl` must be at least 0";
        require(
            &mut found,
            max_kl.is_none_or(|kl| kl >= 0.0 && kl.is_finite()),
            "verify.max_kl",
            says,
        );
        found
    }
}

fn verify_schema(generator: &mut SchemaGenerator) -> Schema {
    let table = generator.subschema_for::<Verify>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, table] })
}

fn verify<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Verify>, D::Error> {
    struct BoolOrTable;
    impl<'de> Visitor<'de> for BoolOrTable {
        type Value = Option<Verify>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("true, false or { data, max_kl }")
        }

        fn visit_bool<E: de::Error>(self, wanted: bool) -> Result<Self::Value, E> {
            Ok(wanted.then(Verify::default))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Verify::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(BoolOrTable)
}
