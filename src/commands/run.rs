//! `distill run`: the chain from its first stage that is not done.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cli::{RecipeArgs, RunArgs};
use crate::counted::counted;
use crate::device::{self, backend_of};
use crate::estimate::advice::changes;
use crate::estimate::comparison::Comparison;
use crate::estimate::fit::{Limit, disk_refusal, refusal, too_large};
use crate::estimate::known::Facts;
use crate::estimate::machine::{Backend, free_disk, free_memory};
use crate::estimate::stored_rates::stored;
use crate::estimate::time::Pace;
use crate::estimate::{Setting, StageEstimate, estimate};
use crate::exit::told;
use crate::profile::Profiler;
use crate::progress::Progress;
use crate::recipe::{Action, Recipe, Thing};
use crate::report::{summary, write_report};
use crate::run_record::{Ended, RunLog};
use crate::stages::{Chain, Ending};

static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(arguments: RunArgs, profiler: Option<Profiler>) -> Result<()> {
    let RunArgs {
        recipe: from,
        device,
        out,
        profile: _,
        memory,
        force,
    } = arguments;
    let recipe = Recipe::load(&from.recipe, from.preset.as_deref(), &from.set)?;
    let placement = device::place(device.device)?;
    let clock = Instant::now();
    let run_directory = out.join(&recipe.name);
    fs::create_dir_all(&run_directory)
        .with_context(|| format!("cannot create {}", run_directory.display()))?;
    let _lock = lock(&run_directory)?;
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        eprintln!(
            "\nstopping after this training step, these requests or this stage; once more to stop at once"
        );
    })
    .context("cannot listen for Ctrl-C")?;
    if let Some(profiler) = &profiler {
        profiler.wait_for(&placement.device);
    }
    let backend = backend_of(device.device, &placement);
    let is_cpu = backend == Backend::Cpu;
    let chain = Chain::prepare(&recipe, &out, placement, &STOP)?;
    let done = chain.done();
    let estimates = plan(&recipe, &chain, &done, backend);
    if !force {
        let free = || is_cpu.then(free_memory).flatten().map(Limit::Free);
        let limit = memory.map(Limit::Allowed).or_else(free);
        let (plan, setting) = (
            (estimates.as_slice(), done.as_slice()),
            Setting::on(backend),
        );
        check_fit(&from, &recipe, &chain, plan, limit, setting)?;
    }
    let mut progress = Progress::new(chain.stages.len());
    let laid_over = (from.preset.as_deref(), from.set.as_slice());
    let mut log = RunLog::begin(
        &run_directory,
        &recipe,
        laid_over,
        chain.device(),
        chain.lineage()?,
    );
    let ending = chain.run(profiler.as_ref(), &mut progress, &mut log);
    log.end(match &ending {
        Ok(Ending::Finished) => Ended::Finished,
        Ok(Ending::Stopped { .. }) => Ended::Stopped,
        Err(error) => Ended::Failed(told(error)),
    });
    if !is_cpu {
        // What is planned is the device's memory, what was measured the host's.
        (log.actual.values_mut()).for_each(|actual| actual.peak_bytes = None);
    }
    // What was made is there without plan and report.
    let compared = Comparison::new(&run_directory, &chain.stages, estimates, &log.actual);
    if let Err(error) = compared.write(&run_directory) {
        tracing::warn!("{error:#}: the report of this run will lack plan against actual");
    }
    if matches!(ending, Ok(Ending::Finished)) {
        eprint!("{}", compared.table());
    }
    let report = write_report(&run_directory, None, None)
        .inspect_err(|error| tracing::warn!("{error:#}"))
        .ok();
    if profiler.is_some() {
        progress.show_profiles(matches!(ending, Ok(Ending::Finished)));
    }
    match ending? {
        Ending::Finished => {
            print!("{}", summary(&chain, clock.elapsed(), report.as_deref())?);
            Ok(())
        }
        Ending::Stopped { stage, step } => {
            let action = &chain.stages[stage].action;
            let place = match (step, action.makes()) {
                (Some(done), Thing::Targets) => {
                    format!("in stage {} after {}", stage + 1, counted(done, "shards"))
                }
                (Some(done), Thing::Scores) if matches!(action, Action::Eval(_)) => {
                    format!("in stage {} after {}", stage + 1, counted(done, "models"))
                }
                (
                    Some(done),
                    Thing::Samples | Thing::Pairs | Thing::Instructions | Thing::Scores,
                ) => {
                    format!("in stage {} after {}", stage + 1, counted(done, "records"))
                }
                (Some(step), _) => format!("in stage {} after step {step}", stage + 1),
                (None, _) => format!("before stage {}", stage + 1),
            };
            bail!("stopped {place}\nhint: run the same command again to go on")
        }
    }
}

/// What the stages will take; their times by the rates of an earlier probe, if there was one.
fn plan(
    recipe: &Recipe,
    chain: &Chain,
    done: &[Option<bool>],
    backend: Backend,
) -> Vec<StageEstimate> {
    let facts = Facts::new(recipe, chain.cache(), false);
    let rates = stored(chain.cache()).filter(|_| backend == Backend::Cpu);
    let mut pace = rates.map_or(Pace::Unknown, Pace::Given);
    estimate(recipe, &facts, Setting::on(backend), done, &mut pace)
}

/// Better now than after hours: whether memory and disk suffice, as far as that is known.
fn check_fit(
    from: &RecipeArgs,
    recipe: &Recipe,
    chain: &Chain,
    (estimates, done): (&[StageEstimate], &[Option<bool>]),
    limit: Option<Limit>,
    setting: Setting,
) -> Result<()> {
    if let Some(limit) = limit {
        let failing = too_large(estimates, limit.bytes());
        if !failing.is_empty() {
            let limits = (limit.bytes(), done);
            let changes = changes(from, recipe, &failing, limits, chain.cache(), setting);
            bail!("{}", refusal(estimates, &failing, limit, &changes));
        }
    }
    let run = chain.run_directory();
    let says = (run.and_then(free_disk)).and_then(|free| disk_refusal(estimates, free));
    says.map_or(Ok(()), |says| bail!("{says}"))
}

/// Two runs of one recipe in one place would undo each other's work.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another run of this recipe is under way in {}\nhint: wait for it, or give this one another --out",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
