//! A model behind a server, as a recipe describes it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::key::KeySource;

/// An OpenAI-compatible server, or several that serve the same model.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// The model's name, as the server knows it.
    pub model: String,
    /// Addresses up to and with /v1. Of several the least busy is asked.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<String>,
    /// Where the key of the server lies. None is sent when left out.
    #[serde(default)]
    pub key: Option<KeySource>,
    /// Requests a minute. No limit when left out.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1000000000))]
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, read and written. No limit when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000000000000_i64))]
    pub tokens_per_minute: Option<f64>,
    /// Requests under way at a time, 1 to 10000.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: usize,
    /// Seconds for a whole answer; of a streamed one, for its next piece.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 0.001, max = 86400))]
    pub timeout_seconds: f64,
    /// How often a request that failed is sent again.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// Seconds before the first retry. It doubles with each, up to 30, and is jittered.
    #[serde(default = "default_backoff")]
    #[schemars(range(min = 0.001, max = 3600))]
    pub backoff_seconds: f64,
    /// Whether answers come in pieces.
    #[serde(default)]
    pub stream: bool,
    /// Dollars a million tokens; without it nothing is said of the cost.
    #[serde(default)]
    pub price: Option<Price>,
}

/// Dollars a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Dollars a million tokens that are read.
    #[schemars(range(min = 0, max = 1000000))]
    pub input: f64,
    /// Dollars a million tokens that are written.
    #[schemars(range(min = 0, max = 1000000))]
    pub output: f64,
}

fn default_concurrency() -> usize {
    8
}

fn default_timeout() -> f64 {
    120.0
}

fn default_retries() -> u32 {
    6
}

fn default_backoff() -> f64 {
    0.5
}

impl RemoteConfig {
    /// What reads well and makes no sense: the key that it stands under, and what is wrong.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &str, says: &str| {
            if !holds {
                found.push((key.to_owned(), says.to_owned()));
            }
        };
        require(!self.model.trim().is_empty(), "model", "`model` is empty");
        require(
            !self.endpoints.is_empty(),
            "endpoints",
            "`endpoints` names no server",
        );
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            if let Some(problem) = endpoint_problem(endpoint) {
                require(false, &format!("endpoints.{i}"), problem);
            }
        }
        require(
            (1..=10_000).contains(&self.concurrency),
            "concurrency",
            "`concurrency` must lie between 1 and 10000",
        );
        for (key, value, [least, most]) in [
            ("requests_per_minute", self.requests_per_minute, [0.01, 1e9]),
            ("tokens_per_minute", self.tokens_per_minute, [1.0, 1e12]),
            (
                "timeout_seconds",
                Some(self.timeout_seconds),
                [0.001, 86_400.0],
            ),
            (
                "backoff_seconds",
                Some(self.backoff_seconds),
                [0.001, 3600.0],
            ),
        ] {
            let says = format!("`{key}` must lie between {least} and {most}");
            let holds = value.is_none_or(|value| (least..=most).contains(&value));
            require(holds, key, &says);
        }
        if let Some(price) = self.price {
            let good = |value: f64| (0.0..=1e6).contains(&value);
            require(
                good(price.input) && good(price.output),
                "price",
                "a price lies between 0 and 1000000, in dollars a million tokens",
            );
        }
        found
    }
}

fn endpoint_problem(endpoint: &str) -> Option<&'static str> {
    let Ok(url) = reqwest::Url::parse(endpoint) else {
        return Some("this is no address; one looks like http://127.0.0.1:8080/v1");
    };
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
        return Some("an endpoint begins with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Some("an endpoint holds neither a key nor a query; name the key with `key`");
    }
    None
}

impl Price {
    /// Dollars for so many tokens read and written.
    pub fn of(&self, input: u64, output: u64) -> f64 {
        (self.input * input as f64 + self.output * output as f64) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> RemoteConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn defaults_and_senseless_values() {
        let plain = config(r#"{"model": "m", "endpoints": ["http://127.0.0.1:1/v1"]}"#);
        assert!(plain.check().is_empty());
        assert_eq!((plain.concurrency, plain.retries), (8, 6));
        let wrong = config(
            r#"{"model": "m", "concurrency": 0, "tokens_per_minute": -1,
                "endpoints": ["ftp://a/v1", "x", "https://key@host/v1", "https://host/v1?key=1"]}"#,
        );
        let keys: Vec<String> = wrong.check().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "endpoints.0",
            "endpoints.1",
            "endpoints.2",
            "endpoints.3",
            "concurrency",
            "tokens_per_minute",
        ];
        assert_eq!(keys, expected);
        let price = Price {
            input: 0.15,
            output: 0.6,
        };
        assert!((price.of(1_000_000, 500_000) - 0.45).abs() < 1e-12);
    }
}
