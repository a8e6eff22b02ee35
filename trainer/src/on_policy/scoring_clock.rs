//! How long a teacher takes to answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::batch::TokenBatch;
use teacher::error::TeacherError;
use teacher::signal::Signal;
use teacher::teacher::{Teacher, Vocabulary};

/// A teacher with a clock. On a device it sees only what is waited for.
pub struct ScoringClock<'a> {
    teacher: &'a dyn Teacher,
    nanoseconds: AtomicU64,
}

impl<'a> ScoringClock<'a> {
    pub fn new(teacher: &'a dyn Teacher) -> Self {
        Self {
            teacher,
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Since it was asked last.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.swap(0, Ordering::Relaxed))
    }
}

impl Teacher for ScoringClock<'_> {
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError> {
        let start = Instant::now();
        let signal = self.teacher.signal(batch, layers);
        let passed = start.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(passed, Ordering::Relaxed);
        signal
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        self.teacher.vocabulary()
    }
}
