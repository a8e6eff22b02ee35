//! Evol-Instruct (WizardLM, arXiv 2304.12244): a teacher makes instructions harder, round after round, and what is no gain
//! stays as it was before.

use datasets::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::asker::Asker;
use super::elimination::{check_answer, check_instruction, check_verdict};
use super::in_order::{Answered, Dropped, dropped_by};
use super::instruction::{Instruction, Seed, request};
use super::prompt::PromptFile;
use super::self_instruct::Asking;
use super::spoken::Spoken;
use crate::error::TeacherError;
use crate::remote::request::{Request, Sampling};

/// What the templates that rewrite see.
pub const VARIABLES: [&str; 2] = ["instruction", "operation"];

/// What the template that compares sees.
pub const JUDGE_VARIABLES: [&str; 2] = ["before", "after"];

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvolInstruct {
    /// How often each seed is evolved.
    #[schemars(range(min = 1))]
    pub rounds: usize,
    /// How instructions are changed; each time one of these is drawn. All six when left out.
    #[serde(default = "all")]
    #[schemars(length(min = 1))]
    pub operations: Vec<Operation>,
    /// A template that asks for a harder instruction.
    pub depth: PromptFile,
    /// A template that asks for another instruction of the same domain.
    pub breadth: PromptFile,
    /// A template that asks whether two instructions are the same or different. Not asked when left out.
    pub judge: Option<PromptFile>,
    /// Whether what the teacher cannot answer is left out.
    #[serde(default = "yes")]
    pub answerable: bool,
    /// Phrases of the templates that an evolved instruction must not repeat.
    #[serde(default = "phrases")]
    pub forbid: Vec<String>,
}

/// How an instruction is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// One more constraint or requirement.
    AddConstraints,
    /// What is asked about goes deeper.
    Deepen,
    /// General notions become specific ones.
    Concretise,
    /// More steps of reasoning are asked for.
    IncreaseReasoning,
    /// Data, such as a table or code, come with it.
    ComplicateInput,
    /// Another instruction of the same domain.
    Breadth,
}

fn all() -> Vec<Operation> {
    vec![
        Operation::AddConstraints,
        Operation::Deepen,
        Operation::Concretise,
        Operation::IncreaseReasoning,
        Operation::ComplicateInput,
        Operation::Breadth,
    ]
}

fn yes() -> bool {
    true
}

fn phrases() -> Vec<String> {
    let phrases = [
        "given prompt",
        "rewritten prompt",
        "created prompt",
        "given instruction",
        "rewritten instruction",
        "created instruction",
    ];
    phrases.map(String::from).to_vec()
}

impl EvolInstruct {
    /// What reads well and makes no sense: the key that it stands under, and what is wrong.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.rounds == 0 {
            found.push(("rounds", "`rounds` must be at least 1".to_owned()));
        }
        if self.operations.is_empty() {
            found.push(("operations", "`operations` lists none".to_owned()));
        }
        let mut prompt = |key, prompt: &PromptFile, variables: &[&str]| {
            if let Err(error) = prompt.check(variables) {
                found.push((key, error.to_string()));
            }
        };
        prompt("depth", &self.depth, &VARIABLES);
        prompt("breadth", &self.breadth, &VARIABLES);
        if let Some(judge) = &self.judge {
            prompt("judge", judge, &JUDGE_VARIABLES);
        }
        found
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// Number of the seed in its data, from 0, and SHA-256 of what it says.
    pub seed: usize,
    pub seed_digest: String,
    /// How many operations it has gone through; 0 is the seed itself.
    pub level: usize,
    pub operations: Vec<Operation>,
    pub model: String,
    /// SHA-256 of the templates that rewrote it, in their order.
    pub prompts: Vec<String>,
    pub parameters: Sampling,
    /// What the answers are kept under that made it and let it pass.
    pub requests: Vec<String>,
}

/// A seed on its way through the rounds.
struct Evolution<'a> {
    asker: &'a Asker,
    config: &'a EvolInstruct,
    asking: &'a Asking,
    text: String,
    lineage: Lineage,
}

/// A step that was left out, and why.
type Eliminated = (Dropped, String);

/// A seed and all that it becomes, level after level.
///
/// # Errors
/// Those that end the whole stage.
pub async fn evolve_seed(
    asker: &Asker,
    config: &EvolInstruct,
    asking: &Asking,
    number: usize,
    seed: &Seed,
) -> Result<Answered<Instruction<Lineage>>, TeacherError> {
    let mut evolution = Evolution {
        asker,
        config,
        asking,
        text: seed.text.clone(),
        lineage: Lineage {
            seed: number,
            seed_digest: seed.digest.clone(),
            level: 0,
            operations: Vec::new(),
            model: asker.model(),
            prompts: Vec::new(),
            parameters: asking.sampling.clone(),
            requests: Vec::new(),
        },
    };
    let mut answered = Answered::default();
    answered.records.push(evolution.instruction());
    let drawn_from = asking.sampling.seed.unwrap_or(0);
    let mut random = Random::new(drawn_from, "evol_instruct", number as u64, "operation");
    for round in 0..config.rounds {
        let drawn = random.below(config.operations.len() as u64) as usize;
        match evolution.step(config.operations[drawn], round).await? {
            Ok(()) => answered.records.push(evolution.instruction()),
            Err((why, said)) => {
                answered.dropped.push((why, said));
                // The rounds behind a missing one are not what they would be.
                if why == Dropped::NoAnswer {
                    break;
                }
            }
        }
    }
    Ok(answered)
}

impl Evolution<'_> {
    fn instruction(&self) -> Instruction<Lineage> {
        Instruction::new(&self.text, self.lineage.clone())
    }

    /// One operation; where it is no gain, all stays as it was.
    async fn step(
        &mut self,
        operation: Operation,
        round: usize,
    ) -> Result<Result<(), Eliminated>, TeacherError> {
        let prompt = match operation {
            Operation::Breadth => &self.config.breadth,
            _ => &self.config.depth,
        };
        let variables = serde_json::json!({ "instruction": self.text, "operation": operation });
        let mut keys = Vec::new();
        let rewriting = self.question(prompt.render(&variables)?, round as u64);
        let evolved = match self.ask(&rewriting, &mut keys).await? {
            Ok(answer) if answer.is_cut => return Ok(Err((Dropped::Cut, answer.text))),
            Ok(answer) => answer.text,
            Err(why) => return Ok(Err(why)),
        };
        let evolved = evolved.trim();
        if let Err(why) = check_instruction(evolved, &self.text, &self.config.forbid) {
            return Ok(Err(why));
        }
        if let Some(judge) = &self.config.judge {
            let variables = serde_json::json!({ "before": self.text, "after": evolved });
            let comparing = self.question(judge.render(&variables)?, 0);
            let verdict = self.ask(&comparing, &mut keys).await?;
            if let Err(why) = verdict.and_then(|answer| check_verdict(&answer.text)) {
                return Ok(Err(why));
            }
        }
        if self.config.answerable {
            // What a stage that answers would ask: there the answer comes from the store.
            let question = request(evolved.to_owned(), None, &self.asking.sampling, 0);
            let answer = self.ask(&question, &mut keys).await?;
            if let Err(why) = answer.and_then(|answer| check_answer(&answer.text)) {
                return Ok(Err(why));
            }
        }
        let digest = prompt.digest();
        self.text = evolved.to_owned();
        self.lineage.level += 1;
        self.lineage.operations.push(operation);
        self.lineage.prompts.push(digest);
        self.lineage.requests.extend(keys);
        Ok(Ok(()))
    }

    fn question(&self, text: String, number: u64) -> Request {
        let Asking {
            system, sampling, ..
        } = self.asking;
        request(text, system.as_deref(), sampling, number)
    }

    async fn ask(
        &self,
        request: &Request,
        keys: &mut Vec<String>,
    ) -> Result<Result<Spoken, Eliminated>, TeacherError> {
        let asked = match self.asker.ask(request).await {
            Ok(asked) => asked,
            Err(error) => return dropped_by(error).map(Err),
        };
        keys.push(asked.key);
        let choice = asked.answer.choices.into_iter().next().unwrap_or_default();
        Ok(Spoken::of(choice))
    }
}
