//! A teacher behind a server, as a trainer asks it: the most probable tokens at each learned place of a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datasets::batch::Batch;
use tokio::runtime::Runtime;

use crate::error::TeacherError;
use crate::remote::RemoteModel;
use crate::remote::account::{Account, Spending};
use crate::remote::error::RemoteError;
use crate::shards::Encoding;
use crate::shards::record::RecordReader;
use crate::shards::remote_capture::{PieceTokens, RemoteCapture};
use crate::shards::shard_file::Target;
use crate::sparse_targets::SparseTargets;
use crate::synth::asker::{Asker, Backend};
use crate::synth::in_order::{Answered, Recording, ask_in_order};

/// Scores batches. An answer that is stored already is not asked for again.
pub struct RemoteScorer<'a> {
    runtime: Runtime,
    asker: Arc<Asker>,
    capture: Arc<RemoteCapture>,
    reader: RecordReader,
    stopping: Arc<AtomicBool>,
    /// Set from outside.
    stop: &'a AtomicBool,
    nanoseconds: AtomicU64,
}

impl<'a> RemoteScorer<'a> {
    /// `stopping` is the one that the model waits with; with `stop` nothing more is asked.
    ///
    /// # Errors
    /// When the system gives no means to wait for the network.
    pub fn new(
        model: RemoteModel,
        account: Account,
        capture: RemoteCapture,
        stopping: Arc<AtomicBool>,
        stop: &'a AtomicBool,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            asker: Arc::new(Asker::new(Backend::Remote(Box::new(model)), account)),
            reader: RecordReader::new(Encoding::TopK(capture.top), capture.vocabulary),
            capture: Arc::new(capture),
            stopping,
            stop,
            nanoseconds: AtomicU64::new(0),
        })
    }

    /// The targets of the batch's supervised positions, in their order: one request for each sequence, all at a time that
    /// the server takes.
    ///
    /// # Errors
    /// A server that cannot be asked, a budget that is reached, an answer that is of other tokens; [`RemoteError::Stopped`]
    /// when it was stopped before all was asked.
    pub fn targets(&self, batch: &Batch) -> Result<SparseTargets, TeacherError> {
        let start = Instant::now();
        let cells = batch.segment_cells().into_iter().enumerate();
        let pieces: Vec<PieceTokens> = cells
            .map(|(number, cells)| PieceTokens::in_batch(batch, number as u32, cells))
            .collect();
        let ask = |number: usize| {
            let (asker, capture) = (self.asker.clone(), self.capture.clone());
            let piece = pieces[number].clone();
            async move {
                let targets = capture.targets(&asker, &piece).await?;
                Ok(Answered {
                    records: vec![targets],
                    ..Answered::default()
                })
            }
        };
        let mut found = SparseTargets::new(self.capture.vocabulary);
        let mut on_record = |targets: &Vec<Target>| {
            for target in targets {
                let read = self
                    .reader
                    .read(&target.record, target.entropy.to_f64(), &mut found);
                read.expect("a record that was written just now");
            }
            Ok(())
        };
        let recording = Recording {
            stop: self.stop,
            stopping: &self.stopping,
            allow_failed: 0,
            on_record: &mut on_record,
            on_seed: &mut |_| (),
        };
        let at_a_time = self.asker.concurrency();
        let asking = ask_in_order(pieces.len(), at_a_time, &ask, recording);
        let (outcome, result) = self.runtime.block_on(asking);
        let passed = start.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(passed, Ordering::Relaxed);
        result?;
        match outcome.stopped {
            true => Err(RemoteError::Stopped.into()),
            false => Ok(found),
        }
    }

    /// How long it took since this was asked last.
    pub fn take_time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.swap(0, Ordering::Relaxed))
    }

    /// What the stage has spent in all its runs, and how many answers of this run came from the store.
    pub fn spent(&self) -> (Spending, u64) {
        self.asker.spent()
    }
}
