//! `distill run --profile`: listens to the spans of steps, phases and operations (`model::span`) and adds up
//! where the time of a stage goes.

mod recording;
mod report;
mod trace;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use model::span::{Cost, OPERATION, PHASE, STEP};
use tracing::field::{Field, Visit};
use tracing::span::{Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::plan::PlannedStage;
use crate::stages::write_whole;
use recording::{Kind, Recording};
use report::Report;

/// The listener. Its clones share what they hear.
#[derive(Clone, Default)]
pub struct Profiler(Arc<Shared>);

#[derive(Default)]
struct Shared {
    device: OnceLock<Device>,
    /// `None` between stages.
    recording: Mutex<Option<Recording>>,
}

impl Profiler {
    /// The part of the logging that hears the spans.
    pub fn layer<S: Subscriber + for<'s> LookupSpan<'s>>(self) -> impl Layer<S> {
        self.with_filter(Targets::new().with_target("profile::", Level::TRACE))
    }

    /// Waits for this device at both ends of every span. Elsewhere than on the CPU an operation is only handed
    /// over when its span ends.
    pub fn wait_for(&self, device: &Device) {
        self.0.device.get_or_init(|| device.clone());
    }

    /// Begins anew, with the spans of this thread: what others do, it waits for.
    pub fn begin(&self) {
        *self.locked() = Some(Recording::new());
    }

    /// Writes `profile.json` and `trace.json` into the stage's directory and gives the table to show; `None` for a stage
    /// without steps.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn finish(&self, stage: &PlannedStage) -> Result<Option<String>> {
        let recording = self.locked().take();
        let Some(recording) = recording.filter(|recording| recording.steps.calls > 0) else {
            return Ok(None);
        };
        let report = Report::new(stage.action.kind(), stage.name.as_deref(), &recording);
        let (profile, trace) = ("profile.json", "trace.json");
        let write = |name: &str, bytes: &[u8]| {
            let path = stage.directory.join(name);
            write_whole(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        write(profile, text.as_bytes())?;
        write(trace, &trace::to_json(&recording.events)?)?;
        Ok(Some(report.table(&stage.directory)))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Recording>> {
        (self.0.recording.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, what: impl FnOnce(&mut Recording)) {
        if let Some(recording) = self.locked().as_mut() {
            recording.on_its_thread(what);
        }
    }

    fn wait(&self) {
        if let Some(device) = self.0.device.get() {
            // What is wrong with the device the work itself will tell.
            let _ = device.sync();
        }
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Profiler {
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut cost = CostVisitor(Cost::default());
        values.record(&mut cost);
        self.heard(|recording| recording.announce(cost.0));
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(metadata) = context.metadata(id) else {
            return;
        };
        let kind = match metadata.target() {
            STEP => Kind::Step,
            PHASE => Kind::Phase,
            OPERATION => Kind::Operation,
            _ => return,
        };
        self.wait();
        if kind == Kind::Step
            && let Some(recording) = self.locked().as_mut()
        {
            recording.follow_step();
        }
        self.heard(|recording| recording.enter(metadata.name(), kind, Instant::now()));
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.wait();
        self.heard(|recording| recording.exit(Instant::now()));
    }
}

struct CostVisitor(Cost);

impl Visit for CostVisitor {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "bytes" => self.0.bytes = value,
            "flops" => self.0.flops = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
