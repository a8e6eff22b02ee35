//! Rates of this machine at a recipe's shapes: one block and two of a stage's own kind, forward and backward, timed.
//!
//! What two blocks take more than one is a block; the rest of a step is counted. Values are small and differ; time does not
//! depend on them but where logits are sorted.

use std::convert::Infallible;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{DType, Tensor, TensorData};
use model::batch::TokenBatch;
use model::build::{Found, Placement, build};
use model::decoder::Decoder;
use model::fake_quantization::QuantizationTarget;
use model::linear::lora::{DropoutDraw, LoraConfig};
use model::linear::{Packed, Weight};
use model::load::ADAPTER;
use model::score::chunk_rows;
use trainer::config::TrainConfig;
use trainer::loss::linear_loss::{AlignedStates, TeacherSignal, TeacherStates, linear_loss};
use trainer::loss::{Labels, LossEntries};
use trainer::optim::adamw::{AdamW, AdamWConfig, GradientScale};

use super::layout::RowLayout;
use super::machine::free_memory;
use super::shape::{Form, ModelShape};
use super::trained::Trained;
use super::work::{self, Rates};

/// Operations a second where nothing can be measured.
const GUESSED_RATE: f64 = 2e10;
/// Values a second where nothing is rounded.
const GUESSED_ROUNDING: f64 = 1e9;
/// Seconds that one pass may take. A microbatch that takes longer is cut: what it pays once, as unpacking quantised blocks,
/// weighs little in it.
const LONGEST: f64 = 0.8;
/// Of a row through a block forward, by the guessed rate.
const LONGEST_ROW: f64 = 5.0;
/// Tokens of the vocabulary where blocks are timed, and at most where the head is: its rate does not depend on them.
const FEW: usize = 64;
const MANY: usize = 1 << 16;
/// A measurement is the lower quartile of so many, after one that pays for its memory: what else runs on the machine
/// makes some of them slower, and none faster.
const TRIES: usize = 15;
const LONG_ENOUGH: f64 = 3.5;
/// Tokens that evaluations compute together.
const ASKED_TOKENS: usize = 2048;
/// Of 8 MiB, to measure the disk.
const WRITTEN_BLOCKS: usize = 8;

/// Whether blocks of this shape can be timed here: all three that are held, with gradients and moments, take an eighth of
/// what is free at most, and a row goes through one in some seconds.
fn can_be_timed(model: &ModelShape, length: usize, bytes_a_value: f64) -> bool {
    let held = 3.0 * bytes_a_value * work::block_values(&model.config);
    let free = free_memory().map_or(f64::INFINITY, |free| free as f64);
    let seen = work::causal(length, length);
    let row = work::block_forward(&model.config, length, seen) / GUESSED_RATE;
    held < free / 8.0 && row < LONGEST_ROW
}

/// Measures the rates of a training stage's shapes; nothing where they are too large for this machine.
pub fn training_rates(trained: &Trained, config: &TrainConfig, disk: f64) -> Option<Rates> {
    let placement = Placement::cpu();
    let models = [Some(&trained.student), trained.teacher.as_ref()];
    let mut models = models.into_iter().flatten();
    if !models.all(|model| can_be_timed(model, config.sequence_length, 16.0)) {
        return None;
    }
    let shape = &trained.student.config;
    let (layout, checkpoint) = (trained.row, config.checkpoint_blocks);
    let lora = (config.adapter.as_ref()).map(|trainer::adapter::Adapter::Lora(lora)| lora);
    let aware = config.quantization_aware.as_ref();
    let aware = aware.map(|aware| aware.target());
    let mut two = student(&trained.student, (2, FEW), (lora, aware), &placement);
    let mut one = student(&trained.student, (1, FEW), (lora, aware), &placement);
    let row = once(|| pass(&mut one, &tokens_of(1, layout), checkpoint));
    let rows = rows_within(row, Trained::micro(config).0);
    let (tokens, seen) = (rows * layout.length, rows as f64 * layout.seen());
    let batch = tokens_of(rows, layout);
    let block = of_a_block(
        || pass(&mut two, &batch, checkpoint),
        || pass(&mut one, &batch, checkpoint),
    );
    let train = work::block_train(shape, trained.holding(), tokens, seen, checkpoint) / block;

    let bytes = optimizer(&mut two);
    let round = rounding(&mut two);
    let mut ask = train;
    if let Some(teacher) = &trained.teacher {
        let two = frozen(teacher, (2, FEW), &placement);
        let one = frozen(teacher, (1, FEW), &placement);
        let block = of_a_block(|| drop(two.hidden(&batch)), || drop(one.hidden(&batch)));
        ask = work::block_forward(&teacher.config, tokens, seen) / block;
    }
    Some(Rates {
        train,
        head: head(trained, (lora, aware), tokens),
        ask,
        bytes,
        disk,
        round,
    })
}

/// Seconds of a block, from those of two and of one with what lies around them, in turns; never nothing, however the clock
/// errs.
fn of_a_block(mut two: impl FnMut(), mut one: impl FnMut()) -> f64 {
    let [two, one] = usual([&mut two, &mut one]);
    (two - one).max(two / 20.0)
}

/// The rate of a model that is only read; nothing where it is too large for this machine.
pub fn asking_rates(model: &ModelShape, length: usize, disk: f64) -> Option<Rates> {
    if !can_be_timed(model, length, 4.0) {
        return None;
    }
    let placement = Placement::cpu();
    let two = frozen(model, (2, FEW), &placement);
    let one = frozen(model, (1, MANY), &placement);
    let layout = RowLayout::full(length);
    let row = once(|| drop(one.hidden(&tokens_of(1, layout))));
    let rows = rows_within(row, (ASKED_TOKENS / length.max(1)).max(1));
    let batch = tokens_of(rows, layout);
    let block = of_a_block(|| drop(two.hidden(&batch)), || drop(one.hidden(&batch)));
    let (tokens, seen) = (rows * length, rows as f64 * layout.seen());
    let ask = work::block_forward(&model.config, tokens, seen) / block;
    let positions = 256;
    let states = constant([positions, model.config.hidden_size]);
    let [seconds] = usual([&mut || drop(one.logits(&states))]);
    Some(Rates {
        train: ask,
        head: work::head_forward(&one.config, positions) / seconds,
        ask,
        bytes: reading(),
        disk,
        round: GUESSED_ROUNDING,
    })
}

/// What some pieces of work usually take, each, in seconds.
fn usual<const N: usize>(mut works: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut tries = [const { Vec::new() }; N];
    let mut spent: f64 = works.iter_mut().map(once).sum();
    for number in 0..TRIES {
        if number > 0 && spent > LONG_ENOUGH {
            break;
        }
        for (work, tries) in works.iter_mut().zip(&mut tries) {
            let seconds = once(work);
            spent += seconds;
            tries.push(seconds);
        }
    }
    tries.map(|mut tries| {
        tries.sort_by(f64::total_cmp);
        tries[tries.len() / 4]
    })
}

fn once(work: impl FnOnce()) -> f64 {
    let clock = Instant::now();
    work();
    clock.elapsed().as_secs_f64().max(1e-7)
}

/// Rows that can be timed, of `most`, where one takes so many seconds.
fn rows_within(seconds: f64, most: usize) -> usize {
    ((LONGEST / seconds) as usize).clamp(1, most.max(1))
}

/// Rows of texts of one length, and of padding behind them.
fn tokens_of(rows: usize, layout: RowLayout) -> TokenBatch {
    let segment_of = |at: usize| match at < layout.tokens {
        true => 1 + (at / layout.segment) as u32,
        false => 0,
    };
    let all = || (0..rows).flat_map(|_| 0..layout.length);
    TokenBatch {
        rows,
        length: layout.length,
        ids: vec![0; rows * layout.length],
        positions: all().map(|at| (at % layout.segment) as u32).collect(),
        segments: all().map(segment_of).collect(),
    }
}

fn constant(shape: [usize; 2]) -> Tensor<2> {
    let data = TensorData::new(vec![0.01_f32; shape[0] * shape[1]], shape);
    Tensor::from_data(data, (&burn::tensor::Device::flex(), DType::F32))
}

/// A decoder of so many blocks and tokens, each matrix held as `form` says of it.
fn decoder(
    model: &ModelShape,
    (layers, vocabulary): (usize, usize),
    placement: &Placement,
    form: impl Fn(&super::shape::TensorShape) -> Form,
) -> Decoder {
    let cut = model.cut(|config| {
        config.num_hidden_layers = layers;
        config.vocab_size = vocabulary.min(config.vocab_size);
    });
    let array = |name: &str, shape: &[usize]| -> Result<Found, Infallible> {
        let count: usize = shape.iter().product();
        let values = || Found::Values((0..count).map(spread).collect());
        let stored = model.tensors.iter().find(|tensor| tensor.name == name);
        Ok(match (stored.map(&form), shape) {
            (Some(Form::Blocks(kind)), &[rows, columns]) => {
                let bytes = vec![0_u8; kind.bytes_of(count).unwrap_or(0)];
                Packed::new(name, [rows, columns], kind, bytes)
                    .map_or_else(|_| values(), Found::Packed)
            }
            (Some(Form::Nf4), &[rows, columns]) => {
                let device = &placement.device;
                let packed = Packed::nf4(name, [rows, columns], &vec![0.01; count], device);
                packed.map_or_else(|_| values(), Found::Packed)
            }
            _ => values(),
        })
    };
    match build(&cut.config, placement, array) {
        Ok(decoder) => decoder,
        Err(never) => match never {},
    }
}

/// Small values that differ.
fn spread(at: usize) -> f32 {
    let bits = (at as u32).wrapping_mul(2_654_435_761) >> 16;
    (bits as f32 / 65_536.0 - 0.5) * 0.02
}

fn frozen(model: &ModelShape, size: (usize, usize), placement: &Placement) -> Decoder {
    decoder(model, size, placement, |tensor| {
        tensor.frozen_form(model.form())
    })
}

fn student(
    model: &ModelShape,
    size: (usize, usize),
    (lora, aware): (Option<&LoraConfig>, Option<QuantizationTarget>),
    placement: &Placement,
) -> Decoder {
    match lora {
        None => {
            let mut decoder = decoder(model, size, placement, |_| Form::Dense);
            // Where groups do not divide its rows the stage itself will say so.
            let _ = aware.map(|target| decoder.fake_quantize(target));
            decoder
        }
        Some(lora) => {
            let mut decoder = decoder(model, size, placement, |t| t.frozen_form(lora.base));
            decoder.freeze();
            // A pattern may name a layer that the short model lacks: then the base alone is timed.
            let _ = decoder.add_lora(ADAPTER, lora, 0);
            decoder.draw_dropout(Some(DropoutDraw::default()));
            decoder
        }
    }
}

/// One microbatch through the blocks and back.
fn pass(decoder: &mut Decoder, batch: &TokenBatch, checkpoint: bool) {
    let (hidden, _, tape) = decoder.forward_with_tape(batch, checkpoint, &[]);
    let gradient = constant(hidden.dims());
    decoder.backward(tape, gradient, &Default::default());
}

/// Logits, losses and the head's way back.
fn head(
    trained: &Trained,
    changes: (Option<&LoraConfig>, Option<QuantizationTarget>),
    tokens: usize,
) -> f64 {
    let cross_entropy = [trainer::loss::LossConfig::CrossEntropy(Default::default())];
    let entries = LossEntries::new(&trained.losses)
        .ok()
        // Stored targets cost little beside the logits.
        .filter(|entries| trained.teacher.is_some() || !entries.compares());
    let entries = entries.or_else(|| LossEntries::new(&cross_entropy).ok());
    let Some(entries) = entries else {
        return GUESSED_RATE;
    };
    let mut own = student(&trained.student, (0, MANY), changes, &Placement::cpu());
    let config = own.config.clone();
    let positions = tokens.min(chunk_rows(config.vocab_size));
    let hidden = constant([positions, config.hidden_size]);
    let teacher = trained.teacher.as_ref().filter(|_| entries.compares());
    // Logits are sorted between vocabularies, and equal ones are sorted at once: those have to differ.
    let is_sorted = entries.is_universal();
    let states = teacher.map(|teacher| {
        let size = (0, MANY);
        let whole = match is_sorted {
            true => decoder(teacher, size, &Placement::cpu(), |_| Form::Dense),
            false => frozen(teacher, size, &Placement::cpu()),
        };
        TeacherStates {
            hidden: constant([positions, teacher.config.hidden_size]),
            head: whole.head().clone(),
        }
    });
    let aligned = states.clone().map(|states| AlignedStates {
        valid: states.head.rows(),
        partners: (0..positions as u32).map(Some).collect(),
        states,
    });
    let labels = Labels {
        targets: &vec![0; positions],
        supervised: &vec![true; positions],
    };
    let trains_head = trained.lora.is_none();
    let mut flops = work::head_train(&config, trains_head, positions, false);
    if let (Some(teacher), Some(states)) = (teacher, &states) {
        flops += 2.0 * (positions * states.head.rows() * teacher.config.hidden_size) as f64;
    }
    let others = states.as_ref().map(|states| states.head.rows());
    let shared = match others {
        Some(others) if !is_sorted => others.min(config.vocab_size),
        _ => config.vocab_size,
    };
    let mut failed = false;
    let [seconds] = usual([&mut || {
        let signal = match is_sorted {
            true => aligned.as_ref().map(TeacherSignal::Aligned),
            false => states.as_ref().map(TeacherSignal::States),
        };
        let head = own.head_mut();
        failed |= linear_loss(&entries, &hidden, head, signal, labels, shared, 1.0).is_err();
    }]);
    match failed {
        true => GUESSED_RATE,
        false => flops / seconds,
    }
}

/// Bytes a second of the optimizer, on the gradients that the passes have left.
fn optimizer(decoder: &mut Decoder) -> f64 {
    let mut adamw = AdamW::new(AdamWConfig::default());
    adamw.hold_moments(decoder.parameters());
    let with_gradient = decoder.parameters().filter(|p| p.gradient.is_some());
    let values: usize = with_gradient.map(|p| p.elements()).sum();
    let clock = Instant::now();
    adamw.step(decoder.parameters_mut(), 1e-6, GradientScale::Known(1.0));
    let seconds = clock.elapsed().as_secs_f64().max(1e-7);
    work::optimizer_bytes(values as u64) / seconds
}

/// Values a second that are rounded anew.
fn rounding(decoder: &mut Decoder) -> f64 {
    let linears = decoder
        .linears()
        .filter(|linear| matches!(linear.weight, Weight::FakeQuant(_)));
    let values: usize = linears
        .map(|linear| linear.weight.rows() * linear.weight.columns())
        .sum();
    if values == 0 {
        return GUESSED_ROUNDING;
    }
    let [seconds] = usual([&mut || drop(decoder.refresh_fake_quantization())]);
    values as f64 / seconds
}

/// Bytes a second that are read and written in order.
fn reading() -> f64 {
    let from = vec![1.0_f32; 16 << 20];
    let mut to = vec![0.0_f32; 16 << 20];
    let [seconds] = usual([&mut || to.copy_from_slice(&from)]);
    2.0 * 4.0 * (16 << 20) as f64 / seconds
}

/// Bytes a second that are written to a file in `directory` and are on the disk when the clock stops.
///
/// # Errors
/// A directory that may not be written, or is full.
pub fn writing(directory: &Path) -> std::io::Result<f64> {
    let block = vec![1_u8; 8 << 20];
    let mut file = tempfile::tempfile_in(directory)?;
    let clock = Instant::now();
    for _ in 0..WRITTEN_BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok((WRITTEN_BLOCKS * block.len()) as f64 / clock.elapsed().as_secs_f64())
}
