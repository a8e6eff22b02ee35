//! Times one operation at a time, as it is asked: a JSON object a line on stdin, one a line on stdout.
//! `benches/operations.py` asks it and PyTorch in turns.
//!
//! With `--memory` it does the work once and answers with the most memory that this took beyond what was held before;
//! what is free is returned first, so that it does not hide what is asked for.

mod measure;
#[path = "../../src/memory.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "what the program alone uses, and its tests"
)]
mod memory;
mod work;

use std::io::{self, BufRead, Write};

use burn::tensor::{DType, Device};
use serde::Deserialize;
use serde_json::json;

use measure::{Peak, seconds};
use work::{Place, Work};

/// One thing to do `runs` times, after a run that does not count.
#[derive(Deserialize)]
struct Request {
    #[serde(flatten)]
    work: Work,
    pass: Pass,
    /// Burn's tensor formula in place of our operation.
    #[serde(default)]
    formula: bool,
    runs: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    Forward,
    /// What it needs of the forward pass is there already.
    Backward,
    /// Forward and backward; where an operation has no two passes, all of it.
    Both,
}

/// As the program has it.
#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let in_memory = arguments.iter().any(|argument| argument == "--memory");
    memory::keep_freed_memory();
    if !in_memory {
        memory::use_huge_pages();
    }
    let place = place(&arguments)?;
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let mut once = request.work.prepare(&place, request.pass, request.formula);
        let answer = match in_memory {
            true => {
                memory::return_freed_memory();
                let peak = Peak::start()?;
                once();
                place.device.sync()?;
                json!({ "peak_bytes": peak.beyond()? })
            }
            false => json!({ "seconds": seconds(request.runs, &place.device, &mut once)? }),
        };
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

/// `--device cuda` computes in bf16 on the first GPU; without it in f32 on the CPU.
fn place(arguments: &[String]) -> anyhow::Result<Place> {
    let named = arguments.iter().position(|argument| argument == "--device");
    let device = named.and_then(|at| arguments.get(at + 1));
    match device.map_or("cpu", String::as_str) {
        "cpu" => Ok(Place {
            device: Device::flex(),
            compute: DType::F32,
        }),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Place {
            device: Device::cuda(0),
            compute: DType::BF16,
        }),
        other => anyhow::bail!(
            "--device {other}: accepted are cpu and, when built with `--features cuda`, cuda"
        ),
    }
}
