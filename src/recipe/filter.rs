//! What the stages that sift data take: `filter`, `dedup` and `decontaminate`.

use datasets::dedup::Method;
use datasets::filter::{Executes, Rule};
use evals::sandbox::SandboxConfig;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Filter {
    #[serde(skip_serializing)]
    pub data: String,
    /// Asked in this order; a record counts for the first that objects.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Dedup {
    #[serde(skip_serializing)]
    pub data: String,
    pub method: Method,
    /// The column that is compared; all that a record says when left out.
    pub field: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Decontaminate {
    #[serde(skip_serializing)]
    pub data: String,
    /// Evaluation sets. Their names stand in the account of what was dropped.
    pub against: Vec<String>,
    /// Words of a run that proves contamination.
    #[serde(default = "thirteen")]
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
