//! What the spans of a stage add up to; one thread at a time is heard.

use std::collections::BTreeMap;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use model::span::Cost;

/// Steps that are left out where there are more: what runs for the first time takes longer.
const WARM_UP: u64 = 2;
/// Steps of the trace.
const TRACED: u64 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Step,
    Phase,
    Operation,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub in_step: bool,
    /// The innermost phase, or the step itself.
    pub phase: &'static str,
    /// `None` for what the phase does outside of operations.
    pub operation: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub calls: u64,
    /// Time within the spans.
    pub total: Duration,
    /// That time without what spans within them took.
    pub own: Duration,
    pub cost: Cost,
}

/// One span that has ended.
#[derive(Debug)]
pub struct Event {
    pub name: &'static str,
    pub kind: Kind,
    /// Since the stage began.
    pub start: Duration,
    pub duration: Duration,
    pub cost: Cost,
}

struct Open {
    name: &'static str,
    kind: Kind,
    key: Key,
    start: Instant,
    inside: Duration,
    cost: Cost,
}

/// The spans of a stage, or of its steps after the warm-up.
pub struct Recording {
    /// The thread that is heard.
    thread: ThreadId,
    /// The one that is heard between steps.
    home: ThreadId,
    begun: Instant,
    open: Vec<Open>,
    announced: Cost,
    steps_begun: u64,
    /// Name of the steps.
    pub unit: &'static str,
    /// Steps at the start that are not in `steps`, `sums` and `events`.
    pub warm_up: Sum,
    pub steps: Sum,
    pub sums: BTreeMap<Key, Sum>,
    pub events: Vec<Event>,
}

impl Recording {
    pub fn new() -> Self {
        Self {
            thread: std::thread::current().id(),
            home: std::thread::current().id(),
            begun: Instant::now(),
            open: Vec::new(),
            announced: Cost::default(),
            steps_begun: 0,
            unit: "step",
            warm_up: Sum::default(),
            steps: Sum::default(),
            sums: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Hears the thread that begins a step, until the step ends: the one that waits for it has nothing to say.
    pub fn follow_step(&mut self) {
        self.thread = std::thread::current().id();
    }

    pub fn on_its_thread(&mut self, f: impl FnOnce(&mut Self)) {
        if std::thread::current().id() == self.thread {
            f(self);
        }
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Steps that the trace shows.
    pub fn traced(&self) -> u64 {
        self.steps.calls.min(TRACED)
    }

    /// Adds to the cost of the span that will be entered next.
    pub fn announce(&mut self, cost: Cost) {
        self.announced.add(cost);
    }

    pub fn enter(&mut self, name: &'static str, kind: Kind, now: Instant) {
        if kind == Kind::Step {
            self.begin_step(name);
        }
        let outer = self.open.last().map(|open| open.key);
        let key = Key {
            in_step: kind == Kind::Step || outer.is_some_and(|key| key.in_step),
            phase: match kind {
                Kind::Operation => outer.map_or(name, |key| key.phase),
                _ => name,
            },
            operation: (kind == Kind::Operation).then_some(name),
        };
        self.open.push(Open {
            name,
            kind,
            key,
            start: now,
            inside: Duration::ZERO,
            cost: std::mem::take(&mut self.announced),
        });
    }

    pub fn exit(&mut self, now: Instant) {
        let Some(span) = self.open.pop() else {
            return;
        };
        let total = now - span.start;
        if let Some(outer) = self.open.last_mut() {
            outer.inside += total;
        }
        let own = total.saturating_sub(span.inside);
        self.sums
            .entry(span.key)
            .or_default()
            .add(total, own, span.cost);
        if self.steps_begun > 0 && self.steps.calls < TRACED {
            self.events.push(Event {
                name: span.name,
                kind: span.kind,
                start: span.start - self.begun,
                duration: total,
                cost: span.cost,
            });
        }
        if span.kind == Kind::Step {
            self.thread = self.home;
            self.steps.add(total, own, span.cost);
        }
    }

    fn begin_step(&mut self, name: &'static str) {
        self.unit = name;
        self.steps_begun += 1;
        if self.steps_begun == WARM_UP + 1 {
            self.warm_up = std::mem::take(&mut self.steps);
            self.sums.retain(|key, _| !key.in_step);
            self.events.clear();
        }
    }
}

impl Sum {
    pub fn add(&mut self, total: Duration, own: Duration, cost: Cost) {
        self.calls += 1;
        self.total += total;
        self.own += own;
        self.cost.add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four steps; of each second of a step the operation takes three quarters, one of them in another within.
    fn recording() -> Recording {
        let mut recording = Recording::new();
        let mut now = recording.begun;
        let mut after = |milliseconds| {
            now += Duration::from_millis(milliseconds);
            now
        };
        for _ in 0..4 {
            recording.enter("step", Kind::Step, after(100));
            recording.enter("forward", Kind::Phase, after(50));
            recording.announce(Cost { bytes: 8, flops: 0 });
            recording.announce(Cost { bytes: 0, flops: 4 });
            recording.enter("outer", Kind::Operation, after(100));
            recording.enter("inner", Kind::Operation, after(500));
            recording.exit(after(250));
            recording.exit(after(0));
            recording.exit(after(50));
            recording.exit(after(50));
            recording.enter("checkpoint", Kind::Phase, after(0));
            recording.exit(after(10));
        }
        recording
    }

    #[test]
    fn own_times_add_up_to_the_steps_after_the_warm_up() {
        let recording = recording();
        for steps in [recording.warm_up, recording.steps] {
            assert_eq!((steps.calls, steps.total), (2, Duration::from_secs(2)));
        }
        let own = |in_step, phase, operation| {
            let key = Key {
                in_step,
                phase,
                operation,
            };
            recording.sums[&key].own.as_millis()
        };
        assert_eq!(own(true, "step", None), 200);
        assert_eq!(own(true, "forward", None), 300);
        assert_eq!(own(true, "forward", Some("outer")), 1000);
        assert_eq!(own(true, "forward", Some("inner")), 500);
        assert_eq!(own(false, "checkpoint", None), 40, "of all steps");
        assert_eq!(recording.sums.len(), 5);
    }

    #[test]
    fn the_trace_holds_what_came_after_the_warm_up() {
        let recording = recording();
        let names: Vec<&str> = recording.events.iter().map(|event| event.name).collect();
        let step = ["inner", "outer", "forward", "step", "checkpoint"];
        assert_eq!(names, [step, step].concat());
        assert_eq!(recording.events[1].cost, Cost { bytes: 8, flops: 4 });
        assert_eq!(recording.events[0].cost, Cost::default());
    }
}
