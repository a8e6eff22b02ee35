//! How wide `prune` leaves the FFN.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;

use super::invalid::{Invalid, require};

/// Widths are multiples of this: the block of GGUF's quantised formats, and even work for the hardware.
const MULTIPLE: usize = 32;

/// The most active channels of every layer, measured on some sequences of the data.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "{ keep = 1024, by = \"activation\", data = \"NAME\" }"
)]
pub struct FfnWidth {
    /// Channels that stay in each layer: a multiple of 32, or a share of them, such as 0.5.
    pub keep: Channels,
    /// What makes a channel important.
    pub by: ChannelMeasure,
    /// The data that it is measured on.
    #[serde(skip_serializing)]
    pub data: String,
    /// Sequences that are read. 32, or as many as the data has, when left out.
    #[schemars(range(min = 1))]
    pub sequences: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelMeasure {
    /// The mean of |activation| over a sequence, the L2 norm over the sequences.
    Activation,
}

/// How many of a layer's channels.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    Count(usize),
    /// Of those there are.
    Share(f64),
}

impl Channels {
    /// Of `full` channels. A share is rounded to the nearest multiple of 32.
    pub fn of(self, full: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => {
                let multiples = share * full as f64 / MULTIPLE as f64;
                let rounded = (multiples.round() as usize).max(1) * MULTIPLE;
                if share == 1.0 {
                    full
                } else {
                    rounded.min(full)
                }
            }
        }
    }
}

impl FfnWidth {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        match self.keep {
            Channels::Count(count) => require(
                &mut found,
                count > 0 && count.is_multiple_of(MULTIPLE),
                "keep",
                format!("`keep` must be a multiple of {MULTIPLE} channels, or a share such as 0.5"),
            ),
            Channels::Share(share) => require(
                &mut found,
                share > 0.0 && share <= 1.0,
                "keep",
                "`keep` as a share must lie above 0.0 and be at most 1.0",
            ),
        }
        let says = "`sequences` must be at least 1";
        require(&mut found, self.sequences != Some(0), "sequences", says);
        found
    }
}

impl JsonSchema for Channels {
    fn schema_name() -> Cow<'static, str> {
        "Channels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "exclusiveMinimum": 0 })
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl Visitor<'_> for Count {
            type Value = Channels;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of channels, such as 1024, or a share of them, such as 0.5")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Channels, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(count), &self);
                usize::try_from(count).map(Channels::Count).map_err(wrong)
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Channels, E> {
                Ok(Channels::Share(share))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_multiples_of_32() {
        for (share, full, width) in [
            (0.5, 1536, 768),
            (0.66, 1536, 1024),
            (0.001, 1536, 32),
            (0.99, 48, 32),
            (1.0, 48, 48),
            (0.999, 1536, 1536),
            (0.5, 16, 16),
        ] {
            assert_eq!(Channels::Share(share).of(full), width, "{share} of {full}");
        }
    }
}
