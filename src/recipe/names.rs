//! Follows the names through a recipe: every one is made once, before it is used, and is what its
//! user wants.

use std::collections::HashMap;
use std::path::PathBuf;

use super::problem::Problem;
use super::stage::{Reference, Thing};
use super::{ModelConfig, Recipe, stage_path};
use crate::source::ModelSource;

/// Where something that a stage uses comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Model(String),
    Data(String),
    /// A directory of stored targets.
    Targets(PathBuf),
    /// The number of the stage that makes it, from 0.
    Stage(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub reference: Reference,
    pub origin: Origin,
}

struct Definition {
    thing: Thing,
    origin: Origin,
    /// Its place in the recipe.
    path: String,
}

/// The inputs of every stage, or all that is wrong with the names.
pub fn resolve(recipe: &Recipe) -> Result<Vec<Vec<Input>>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut defined: HashMap<&str, Definition> = HashMap::new();
    let mut define = |name, mut definition: Definition, problems: &mut Vec<Problem>| {
        if let Origin::Stage(at) = definition.origin
            && let Some(sifted) = recipe.stages[at].action.sifts()
            && let Some(sifted) = defined.get(sifted)
            && fits(sifted.thing, Thing::Data)
        {
            definition.thing = sifted.thing;
        }
        let place = recipe.locate(&definition.path);
        if let Some(first) = defined.get(name) {
            let line = recipe.line_of(&first.path).unwrap_or_default();
            problems.push(
                Problem::new(format!("`{name}` is defined twice"))
                    .at(place)
                    .hint(format!(
                        "{line} has the first; models, data and stages share their names"
                    )),
            );
        } else {
            defined.insert(name, definition);
        }
    };
    let declared = (recipe
        .models
        .keys()
        .map(|name| (name, format!("models.{name}"))))
    .chain(
        recipe
            .data
            .keys()
            .map(|name| (name, format!("data.{name}"))),
    );
    let made = recipe.stages.iter().enumerate().filter_map(|(at, stage)| {
        let name = stage.name.as_ref()?;
        Some((name, format!("{}.as", stage_path(at))))
    });
    for (name, path) in declared.chain(made) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.chars().all(is_plain) {
            let problem = Problem::new(format!("`{name}` is no name"))
                .hint("a name is made of letters, digits, `_` and `-`");
            problems.push(problem.at(recipe.locate(&path)));
        }
    }
    for (name, model) in &recipe.models {
        let (origin, path) = (Origin::Model(name.clone()), format!("models.{name}"));
        let thing = match model.source {
            ModelSource::Remote(_) => Thing::Remote,
            ModelSource::Stored(_) | ModelSource::Random(_) => Thing::Model,
        };
        define(
            name,
            Definition {
                thing,
                origin,
                path,
            },
            &mut problems,
        );
    }
    for name in recipe.data.keys() {
        let (origin, path) = (Origin::Data(name.clone()), format!("data.{name}"));
        let thing = Thing::Data;
        define(
            name,
            Definition {
                thing,
                origin,
                path,
            },
            &mut problems,
        );
    }
    for (at, stage) in recipe.stages.iter().enumerate() {
        if let Some(name) = &stage.name {
            let (thing, origin) = (stage.action.makes(), Origin::Stage(at));
            let path = format!("{}.as", stage_path(at));
            if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
                let problem = Problem::new("a name must hold a letter")
                    .hint("numbers stand for the stages' places in the chain");
                problems.push(problem.at(recipe.locate(&path)));
            }
            define(
                name,
                Definition {
                    thing,
                    origin,
                    path,
                },
                &mut problems,
            );
        }
    }

    let mut inputs = Vec::with_capacity(recipe.stages.len());
    for (at, stage) in recipe.stages.iter().enumerate() {
        let mut found = Vec::new();
        for reference in stage.action.references() {
            match look_up(&reference, at, &defined, recipe) {
                Ok(origin) => found.push(Input { reference, origin }),
                Err(problem) => {
                    let path = format!("{}.{}", stage_path(at), reference.key);
                    problems.push(problem.at(recipe.locate(&path)));
                }
            }
        }
        inputs.push(found);
    }
    for (name, model) in &recipe.models {
        let Some(tokenizer) = &model.tokenizer else {
            continue;
        };
        let problem = match recipe.models.get(tokenizer) {
            None => Problem::new(format!("no model `{tokenizer}` to take the tokenizer from"))
                .accepting(
                    tokenizer,
                    recipe.models.keys().filter(|other| *other != name),
                ),
            Some(other) if tokenizer == name || other.tokenizer.is_some() => {
                Problem::new(format!("`{tokenizer}` has no tokenizer of its own"))
            }
            Some(ModelConfig {
                source: ModelSource::Remote(_),
                ..
            }) => Problem::new(format!(
                "`{tokenizer}` is remote: its tokenizer is not here"
            )),
            Some(ModelConfig {
                source: ModelSource::Random(_),
                ..
            }) => Problem::new(format!(
                "`{tokenizer}` is random: it has no tokenizer to lend"
            )),
            Some(_) => continue,
        };
        problems.push(problem.at(recipe.locate(&format!("models.{name}.tokenizer"))));
    }
    if problems.is_empty() {
        Ok(inputs)
    } else {
        Err(problems)
    }
}

fn fits(thing: Thing, wanted: Thing) -> bool {
    let also: &[Thing] = match wanted {
        Thing::Writer => &[Thing::Model, Thing::Remote],
        Thing::Data => &[Thing::Samples, Thing::Pairs, Thing::Instructions],
        Thing::Questions => &[Thing::Data, Thing::Samples, Thing::Instructions],
        // What declared data holds shows when it is read.
        Thing::Samples | Thing::Pairs => &[Thing::Data],
        _ => &[],
    };
    thing == wanted || also.contains(&thing)
}

/// How to come from records of one kind to those that are wanted.
fn way_out(thing: Thing, wanted: Thing) -> Option<&'static str> {
    match thing {
        Thing::Samples if wanted == Thing::Pairs => {
            Some("a stage `rate` makes pairs of rated answers")
        }
        Thing::Pairs => {
            Some("`keep = \"best\"` in the stage `rate` keeps the best answers, as conversations")
        }
        Thing::Instructions => Some("let a stage `generate` answer them first"),
        _ => None,
    }
}

fn look_up(
    reference: &Reference,
    user: usize,
    defined: &HashMap<&str, Definition>,
    recipe: &Recipe,
) -> Result<Origin, Problem> {
    let Reference { name, wanted, .. } = reference;
    let earlier = |definition: &Definition| match definition.origin {
        Origin::Stage(maker) => maker < user,
        _ => true,
    };
    let Some(definition) = defined.get(name.as_str()) else {
        let directory = PathBuf::from(name);
        if *wanted == Thing::Targets && directory.is_dir() {
            return Ok(Origin::Targets(directory));
        }
        let mut known: Vec<&str> = (defined.iter())
            .filter(|(_, definition)| fits(definition.thing, *wanted) && earlier(definition))
            .map(|(name, _)| *name)
            .collect();
        known.sort_unstable();
        let message = match wanted {
            Thing::Model | Thing::Writer => format!("no model is called `{name}`"),
            Thing::Targets => {
                format!("no stage `capture` is called `{name}`, nor is a directory")
            }
            _ => format!("no data is called `{name}`"),
        };
        return Err(Problem::new(message).accepting(name, known));
    };
    if (definition.thing, *wanted) == (Thing::Remote, Thing::Model) {
        return Err(Problem::new(format!(
            "`{name}` is a remote model: its text can be had, its weights and the logits of all tokens cannot"
        ))
        .hint(format!("name a model with weights here, let this one write data with a stage `generate` and learn from that with `sft`, tell targets with a stage `capture`, or teach a stage `distill` as `teacher = {{ remote = \"{name}\" }}`")));
    }
    if !fits(definition.thing, *wanted) {
        let found = match (definition.thing, *wanted) {
            (Thing::Samples, wanted) if !fits(Thing::Data, wanted) => Thing::Data,
            (found, _) => found,
        };
        let wanted = match (*wanted, fits(found, Thing::Data)) {
            (Thing::Samples | Thing::Pairs | Thing::Questions, false) => Thing::Data,
            (wanted, _) => wanted,
        };
        let way_out = way_out(found, wanted);
        let are = if wanted == Thing::Pairs { "are" } else { "is" };
        let (is, wanted) = (found.described(), wanted.described());
        let verb = if matches!(found, Thing::Pairs | Thing::Instructions) {
            "holds"
        } else {
            "is"
        };
        let problem = Problem::new(format!("`{name}` {verb} {is}, {wanted} {are} wanted here"));
        return Err(match way_out {
            Some(hint) if fits(found, Thing::Data) => problem.hint(hint),
            _ => problem,
        });
    }
    if !earlier(definition) {
        let line = recipe.line_of(&definition.path).unwrap_or_default();
        return Err(
            Problem::new(format!("`{name}` is used before it is made")).hint(format!(
                "the stage at {line} makes it: stages run in the order they stand in"
            )),
        );
    }
    Ok(definition.origin.clone())
}
