//! Remote models as the subject of a stage `eval`: what a task needs of them here, and what it may cost.

use super::Recipe;
use super::invalid::Invalid;
use super::stage::{Action, Stage};
use crate::source::ModelSource;

impl Recipe {
    pub(super) fn remote_subjects(&self, stage: &Stage) -> Vec<Invalid> {
        let Action::Eval(eval) = &stage.action else {
            return Vec::new();
        };
        let remotes = eval.inputs.models.iter().enumerate();
        let remotes = remotes.filter_map(|(i, name)| match &self.models.get(name)?.source {
            ModelSource::Remote(remote) => Some((i, name, remote)),
            _ => None,
        });
        let remotes: Vec<_> = remotes.collect();
        let mut found = Vec::new();
        if !eval.measure.is_written() {
            let task = eval.measure.name();
            let unread =
                (remotes.iter()).filter(|(_, name, _)| self.models[*name].tokenizer.is_none());
            found.extend(unread.map(|(i, name, _)| {
                let says = format!(
                    "`{task}` asks for the log-probabilities of given tokens, and the remote model `{name}` has no tokenizer here"
                );
                let hint = "add `tokenizer = \"NAME\"` to the remote model, with a declared model of the same family; \
                            human_eval, gsm8k and math need none";
                Invalid::new(format!("models.{i}"), says).hint(hint)
            }));
        }
        let Some(budget) = &eval.inputs.budget else {
            return found;
        };
        if remotes.is_empty() {
            let says = "`budget` is for remote models, and none of `models` is one";
            found.push(Invalid::new("budget", says));
        }
        if budget.dollars.is_some() {
            let unpriced = remotes.iter().find(|(.., remote)| remote.price.is_none());
            found.extend(unpriced.map(|(_, name, _)| {
                let says = format!("a budget in dollars needs the `price` of `{name}`");
                Invalid::new("budget.dollars", says)
            }));
        }
        found
    }
}
