//! What the stages that sift data take: `filter`, `dedup` and `decontaminate`.

use datasets::dedup::Method;
use datasets::filter::{Executes, Rule};
use evals::sandbox::SandboxConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};

/// Drops records that a rule objects to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Filter {
    /// The data that is sifted.
    #[serde(skip_serializing)]
    pub data: String,
    /// Asked in this order; a record counts for the first that objects.
    #[schemars(length(min = 1))]
    pub rules: Vec<Rule>,
}

/// Drops records that are the same as an earlier one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Dedup {
    /// The data that is sifted.
    #[serde(skip_serializing)]
    pub data: String,
    /// When two records are the same.
    pub method: Method,
    /// The column that is compared. All that a record says when left out.
    pub field: Option<String>,
}

/// Drops records that share words with an evaluation set.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Decontaminate {
    /// The data that is sifted.
    #[serde(skip_serializing)]
    pub data: String,
    /// Evaluation sets: data whose words must not stand in it.
    #[schemars(length(min = 1))]
    pub against: Vec<String>,
    /// Words of a run that proves contamination.
    #[serde(default = "thirteen")]
    #[schemars(range(min = 1))]
    pub ngram: usize,
}

fn thirteen() -> usize {
    13
}

fn invalid(prefix: &str, (key, says): (String, String)) -> Invalid {
    match key.is_empty() {
        true => Invalid::new(prefix, says),
        false => Invalid::new(format!("{prefix}.{key}"), says),
    }
}

/// How the programs of a rule are run.
pub fn sandbox_of(rule: &Executes) -> SandboxConfig {
    SandboxConfig {
        timeout: rule.timeout,
        memory: rule.memory,
        python: rule.python.clone(),
        unsafe_execution: rule.unsafe_execution,
        ..SandboxConfig::default()
    }
}

impl Filter {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        require(
            &mut found,
            !self.rules.is_empty(),
            "rules",
            "`rules` lists no rule",
        );
        for (i, rule) in self.rules.iter().enumerate() {
            let wrong = match rule {
                Rule::Executes(executes) => sandbox_of(executes).check(),
                rule => rule.check(),
            };
            let wrong = wrong.into_iter();
            found.extend(wrong.map(|wrong| invalid(&format!("rules.{i}"), wrong)));
        }
        found
    }
}

impl Dedup {
    pub fn check(&self) -> Vec<Invalid> {
        let wrong = self.method.check().into_iter();
        wrong.map(|wrong| invalid("method", wrong)).collect()
    }
}

impl Decontaminate {
    /// The sets, each with the key that it stands under.
    pub fn sets(&self) -> impl Iterator<Item = (String, &str)> {
        let sets = self.against.iter().enumerate();
        sets.map(|(i, name)| (format!("against.{i}"), name.as_str()))
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        check(
            !self.against.is_empty(),
            "against",
            "`against` names no data",
        );
        check(self.ngram > 0, "ngram", "`ngram` must be at least 1");
        for (i, name) in self.against.iter().enumerate() {
            let twice = self.against[..i].contains(name);
            check(
                !twice,
                &format!("against.{i}"),
                &format!("`{name}` is listed twice"),
            );
            let itself = *name == self.data;
            let says = format!("`{name}` is the data itself: nothing of it would be left");
            check(!itself, &format!("against.{i}"), &says);
        }
        found
    }
}
