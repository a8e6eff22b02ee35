//! How long a stage without steps takes.

use evals::text_size::TextSize;

use super::disk;
use super::known::{Facts, Known};
use super::kv_cache;
use super::requests::{self, Asked};
use super::shape::ModelShape;
use super::stage::{ROWS, is_behind_server, is_remote};
use super::time::{Pace, asked, asking};
use super::work::Work;
use crate::recipe::{Action, CaptureFrom, Eval, KeepLayers, Measure, Prune, Recipe, Windows};
use crate::stages::prune::{CALIBRATION_LENGTH, SEQUENCES};

/// Opening a tokenizer and writing it again takes so long; measured with 49 thousand tokens.
const OPENING: f64 = 0.3;
const OF_A_SERVER: &str = "it is the server's";
const NOT_COUNTED: &str = "its work is not counted";

/// Of the whole stage; nothing where the machine's pace is not known.
///
/// # Errors
/// What is not known, and what would tell it; work that is not counted.
pub fn seconds(
    recipe: &Recipe,
    facts: &Facts,
    stage: usize,
    pace: &mut Pace,
) -> Known<Option<f64>> {
    let action = &recipe.stages[stage].action;
    match action {
        Action::Prune(prune) => {
            let model = facts.model(stage, "model")?;
            let both = measuring(prune, &model, pace).zip(written(recipe, facts, stage, pace));
            Ok(both.map(|(measuring, writing)| measuring + writing))
        }
        Action::Gqa(_) | Action::Export(_) => Ok(written(recipe, facts, stage, pace)),
        Action::Eval(eval) => evaluating(recipe, facts, stage, eval, pace),
        _ if is_remote(recipe, action) => Err(OF_A_SERVER.into()),
        Action::Capture(capture) if capture.from == CaptureFrom::Teacher => {
            let model = facts.model(stage, "teacher")?;
            let data = facts.mixture(stage, &capture.data)?;
            let mut work = asked(&model.config, data.tokens(), capture.sequence_length);
            work.head *= data.learned_share();
            let rates = asking(&model, capture.sequence_length, pace);
            Ok(rates.map(|rates| work.seconds(&rates)))
        }
        Action::Generate(_) | Action::Rate(_) | Action::Judge(_) | Action::Exercises(_) => {
            let model = facts.model(stage, "teacher")?;
            let asked = requests::asked(recipe, facts, stage)?.ok_or(NOT_COUNTED)?;
            Ok(writing(&model, &asked, pace))
        }
        _ => Err(NOT_COUNTED.into()),
    }
}

/// The models on this machine, one after the other.
fn evaluating(
    recipe: &Recipe,
    facts: &Facts,
    stage: usize,
    eval: &Eval,
    pace: &mut Pace,
) -> Known<Option<f64>> {
    let models = eval.inputs.models.iter().enumerate();
    let local = models.filter(|(_, name)| !is_behind_server(recipe, name));
    let keys: Vec<String> = local
        .map(|(number, _)| format!("models.{number}"))
        .collect();
    if keys.is_empty() {
        return Err(OF_A_SERVER.into());
    }
    let mut of_all = |seconds: &mut dyn FnMut(&ModelShape, &mut Pace) -> Option<f64>| {
        let mut sum = Some(0.0);
        for key in &keys {
            let of_one = seconds(&facts.model(stage, key)?, pace);
            sum = sum.zip(of_one).map(|(sum, of_one)| sum + of_one);
        }
        Ok(sum)
    };
    match &eval.measure {
        Measure::Perplexity(windows) => {
            let tokens = facts.data(stage, "data")?.tokens();
            of_all(&mut |model, pace| windows_read(windows, tokens, model, pace))
        }
        measure if measure.choices().is_some() => {
            let texts = facts.texts(stage)?;
            of_all(&mut |model, pace| scoring(model, texts, pace))
        }
        measure if measure.is_written() => {
            let mut asked = requests::asked(recipe, facts, stage)?.ok_or(NOT_COUNTED)?;
            if let Ok(texts) = facts.texts(stage) {
                asked.read = texts.read_here;
            }
            of_all(&mut |model, pace| writing(model, &asked, pace))
        }
        _ => Err(NOT_COUNTED.into()),
    }
}

/// Answers as long as they may be, so many at a time.
fn writing(model: &ModelShape, wanted: &Asked, pace: &mut Pace) -> Option<f64> {
    let (texts, new) = (wanted.texts as f64, wanted.new as f64);
    let steps = wanted.texts.div_ceil(ROWS as u64) as f64 * new;
    let work = asked(&model.config, wanted.read as u64, 256).plus(Work {
        decode_bytes: steps * model.frozen_bytes(model.form()) as f64,
        ask: texts * new * 2.0 * model.parameters() as f64,
        ..Work::default()
    });
    Some(work.seconds(&asking(model, 512, pace)?))
}

/// Windows over a text, of each the last stride scored.
fn windows_read(
    windows: &Windows,
    tokens: u64,
    model: &ModelShape,
    pace: &mut Pace,
) -> Option<f64> {
    let context = model.config.max_position_embeddings;
    let window = windows.window.unwrap_or(2048).min(context);
    let stride = windows.stride.unwrap_or(window / 2).max(1);
    let positions = tokens.saturating_mul(window as u64) / stride as u64;
    let mut work = asked(&model.config, positions, window);
    work.head *= stride as f64 / window as f64;
    Some(work.seconds(&asking(model, window, pace)?))
}

/// Reads texts and scores some of their tokens. Keys and values of what a group begins with are copied for each row.
fn scoring(model: &ModelShape, texts: &TextSize, pace: &mut Pace) -> Option<f64> {
    let longest = texts.groups.iter().map(|group| group.longest);
    let length = (longest.fold(1.0, f64::max) as usize).min(2048);
    let mut work = asked(&model.config, texts.read_here as u64, length);
    work.head *= texts.scored_here / texts.read_here.max(1.0);
    let copied = texts.groups.iter().filter(|group| group.rows > 1);
    let copied = copied.map(|group| {
        // Read and written twice: the beginning for each row, and both where the row's own are put behind it.
        4 * kv_cache::bytes(
            &model.config,
            group.shared as usize,
            group.rows,
            size_of::<f32>(),
        )
    });
    work.decode_bytes += copied.sum::<u64>() as f64;
    Some(work.seconds(&asking(model, length, pace)?))
}

/// Reads what a choice of layers and one of channels are measured on.
fn measuring(prune: &Prune, model: &ModelShape, pace: &mut Pace) -> Option<f64> {
    let layers = match &prune.keep_layers {
        Some(KeepLayers::Best(best)) => best.sequences.unwrap_or(SEQUENCES),
        _ => 0,
    };
    let channels = prune.ffn_width.as_ref();
    let channels = channels.map_or(0, |width| width.sequences.unwrap_or(SEQUENCES));
    let rows = layers.saturating_add(channels);
    if rows == 0 {
        return Some(0.0);
    }
    let tokens = rows.saturating_mul(CALIBRATION_LENGTH);
    let work = Work {
        head: 0.0,
        ..asked(&model.config, tokens as u64, CALIBRATION_LENGTH)
    };
    Some(work.seconds(&asking(model, CALIBRATION_LENGTH, pace)?))
}

/// Writes what the stage leaves.
fn written(recipe: &Recipe, facts: &Facts, stage: usize, pace: &Pace) -> Option<f64> {
    let files = disk::files(recipe, facts, stage);
    let bytes = disk::bytes_of(&files, disk::Lasts::Run);
    (bytes > 0).then(|| Some(OPENING + bytes as f64 / pace.disk()?))?
}
