//! Remote models as the subject of a stage `eval`: which tasks can ask them, and what that may cost.

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
            found.extend(remotes.iter().map(|(i, name, _)| {
                let says = format!(
                    "`{task}` needs the log-probabilities of given tokens, and `{name}` is a remote model, which is asked for texts alone"
                );
                let hint = "human_eval, gsm8k and math take remote models; for this task name a model with weights here";
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
