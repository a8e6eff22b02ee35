//! Answers that are kept, and what they cost: one SQLite file for all runs.
//!
//! An answer and its cost are written in one transaction, and only then does a request count as answered. A thread of its
//! own writes, many answers at a time, so that waiting for the disk costs little.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::account::Spending;
use super::answer::Answer;
use super::error::RemoteError;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS answers (
        key TEXT PRIMARY KEY, stage TEXT NOT NULL, answer TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS spending (
        stage TEXT PRIMARY KEY, requests INTEGER NOT NULL, retries INTEGER NOT NULL, answers INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, dollars REAL NOT NULL,
        possibly_tokens INTEGER NOT NULL, possibly_dollars REAL NOT NULL
    ) WITHOUT ROWID;
";

/// Another process may be writing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes of one transaction.
const AT_A_TIME: usize = 1024;

pub struct Store {
    path: PathBuf,
    reader: Mutex<Connection>,
    writes: Option<Sender<Write>>,
    writer: Option<JoinHandle<()>>,
}

struct Write {
    stage: String,
    change: Spending,
    /// Key and answer.
    answer: Option<(String, String)>,
    done: oneshot::Sender<Result<(), String>>,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`RemoteError::Store`] for a file that cannot be written or is no such store.
    pub fn open(path: &Path) -> Result<Self, RemoteError> {
        let failed = |reason: String| RemoteError::Store {
            path: path.to_path_buf(),
            reason,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(error.to_string()))?;
        }
        let connect = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // What was paid for is on the disk before it counts as answered.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute_batch(TABLES)?;
            Ok(connection)
        };
        let reader = connect().map_err(|error| failed(reason(&error)))?;
        let connection = connect().map_err(|error| failed(reason(&error)))?;
        let (writes, incoming) = channel();
        let writer = std::thread::Builder::new()
            .name("answers".into())
            .spawn(move || write_all(connection, &incoming))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            path: path.to_path_buf(),
            reader: Mutex::new(reader),
            writes: Some(writes),
            writer: Some(writer),
        })
    }

    fn failed(&self, reason: String) -> RemoteError {
        RemoteError::Store {
            path: self.path.clone(),
            reason,
        }
    }

    /// The answer that is kept under a key.
    ///
    /// # Errors
    /// [`RemoteError::Store`].
    pub fn get(&self, key: &str) -> Result<Option<Answer>, RemoteError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = reader
            .prepare_cached("SELECT answer FROM answers WHERE key = ?1")
            .map_err(|error| self.failed(reason(&error)))?;
        let text: Option<String> = query
            .query_row([key], |row| row.get(0))
            .optional()
            .map_err(|error| self.failed(reason(&error)))?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| self.failed(format!("the answer {key} cannot be read: {error}")))
    }

    /// What a stage has spent in all its runs.
    ///
    /// # Errors
    /// [`RemoteError::Store`].
    pub fn spent(&self, stage: &str) -> Result<Spending, RemoteError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = reader.query_row(
            "SELECT requests, retries, answers, input_tokens, output_tokens, dollars, possibly_tokens, possibly_dollars
             FROM spending WHERE stage = ?1",
            [stage],
            |row| {
                Ok(Spending {
                    requests: row.get(0)?,
                    retries: row.get(1)?,
                    answers: row.get(2)?,
                    input_tokens: row.get(3)?,
                    output_tokens: row.get(4)?,
                    dollars: row.get(5)?,
                    possibly_tokens: row.get(6)?,
                    possibly_dollars: row.get(7)?,
                })
            },
        );
        let spent = spent
            .optional()
            .map_err(|error| self.failed(reason(&error)))?;
        Ok(spent.unwrap_or_default())
    }

    /// Keeps an answer together with what it cost; it is on the disk when this returns. What is kept under the key is
    /// returned: an answer that is there already stays, for it may have been used.
    ///
    /// # Errors
    /// [`RemoteError::Store`], a full disk for one.
    pub async fn put(
        &self,
        key: &str,
        answer: &Answer,
        stage: &str,
        change: Spending,
    ) -> Result<Answer, RemoteError> {
        let text = serde_json::to_string(answer).map_err(|error| self.failed(error.to_string()))?;
        let kept = Some((key.to_owned(), text));
        self.write(stage, change, kept).await?;
        let gone = || self.failed(format!("the answer {key} is gone"));
        self.get(key)?.ok_or_else(gone)
    }

    /// Notes what a stage has spent; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`RemoteError::Store`].
    pub async fn note(&self, stage: &str, change: Spending) -> Result<(), RemoteError> {
        self.write(stage, change, None).await
    }

    async fn write(
        &self,
        stage: &str,
        change: Spending,
        answer: Option<(String, String)>,
    ) -> Result<(), RemoteError> {
        let (done, written) = oneshot::channel();
        let write = Write {
            stage: stage.to_owned(),
            change,
            answer,
            done,
        };
        if let Some(writes) = &self.writes {
            // If the thread has ended, the wait tells.
            let _ = writes.send(write);
        }
        match written.await {
            Ok(result) => result.map_err(|reason| self.failed(reason)),
            Err(_) => Err(self.failed("the thread that writes has ended".into())),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.writes.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::warn!(
                "the thread that writes to {} has failed",
                self.path.display()
            );
        }
    }
}

fn write_all(mut connection: Connection, incoming: &Receiver<Write>) {
    while let Ok(first) = incoming.recv() {
        let mut batch = vec![first];
        batch.extend(incoming.try_iter().take(AT_A_TIME - 1));
        let written = write_batch(&mut connection, &batch).map_err(|error| reason(&error));
        for write in batch {
            // Who asked may have gone away.
            let _ = write.done.send(written.clone());
        }
    }
}

fn write_batch(connection: &mut Connection, batch: &[Write]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut keep = transaction.prepare_cached(
            "INSERT OR IGNORE INTO answers (key, stage, answer) VALUES (?1, ?2, ?3)",
        )?;
        let mut add = transaction.prepare_cached(
            "INSERT INTO spending VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (stage) DO UPDATE SET
             requests = requests + ?2, retries = retries + ?3, answers = answers + ?4,
             input_tokens = input_tokens + ?5, output_tokens = output_tokens + ?6, dollars = dollars + ?7,
             possibly_tokens = possibly_tokens + ?8, possibly_dollars = possibly_dollars + ?9",
        )?;
        for Write {
            stage,
            change,
            answer,
            ..
        } in batch
        {
            if let Some((key, text)) = answer {
                keep.execute(params![key, stage, text])?;
            }
            add.execute(params![
                stage,
                change.requests,
                change.retries,
                change.answers,
                change.input_tokens,
                change.output_tokens,
                change.dollars,
                change.possibly_tokens,
                change.possibly_dollars
            ])?;
        }
    }
    transaction.commit()
}

/// SQLite's words, with a hint where one is known.
fn reason(error: &rusqlite::Error) -> String {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            "\nhint: make room on the disk and run the same command again; what was stored stays"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "\nhint: this is no store of answers, or a damaged one; move it away to begin a new one"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Choice, TokenLogprob, Usage};
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer {
            choices: vec![Choice {
                text: text.into(),
                ..Choice::default()
            }],
            usage: Usage {
                input: 3,
                output: 2,
            },
        }
    }

    fn block<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn answers_and_costs_survive_together() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/answers.sqlite");
        let change = Spending {
            requests: 1,
            answers: 1,
            dollars: 0.25,
            ..Spending::default()
        };
        {
            let store = Store::open(&path).unwrap();
            assert!(store.get("k").unwrap().is_none());
            let retries = Spending {
                retries: 2,
                ..Spending::default()
            };
            block(store.note("s", retries)).unwrap();
            block(store.put("k", &answer("hi"), "s", change)).unwrap();
            // It may have been used: a later one is paid for, and the first stays.
            let kept = block(store.put("k", &answer("ho"), "s", Spending::default())).unwrap();
            assert_eq!(kept, answer("hi"));
            // Its numbers are those that a later run will read, to the last bit.
            for number in 1..1000 {
                let key = format!("logprob {number}");
                let mut told = answer("hi");
                told.choices[0].logprobs = vec![TokenLogprob {
                    bytes: None,
                    token: "hi".into(),
                    id: None,
                    logprob: Some(-(f64::from(number)).ln() * 1e-3),
                    top: Vec::new(),
                }];
                let kept = block(store.put(&key, &told, "s", Spending::default())).unwrap();
                assert_eq!(kept, store.get(&key).unwrap().unwrap());
            }
            assert_eq!(store.get("k").unwrap().unwrap(), answer("hi"));
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.get("k").unwrap().unwrap(), answer("hi"));
        let spent = store.spent("s").unwrap();
        assert_eq!((spent.requests, spent.retries, spent.dollars), (1, 2, 0.25));
        assert_eq!(store.spent("other").unwrap(), Spending::default());
    }

    #[test]
    fn a_file_that_is_no_store_is_told() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("answers.sqlite");
        std::fs::write(
            &path,
            "this is certainly no database at all, however long it is",
        )
        .unwrap();
        let error = Store::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("answers.sqlite") && error.contains("hint: "),
            "{error}"
        );
        let beneath = path.join("answers.sqlite");
        assert!(Store::open(&beneath).is_err());
    }

    /// A stage that only repeats what is stored must not be slow.
    #[test]
    fn stored_answers_are_read_fast() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("answers.sqlite")).unwrap();
        block(async {
            let text = "word ".repeat(100);
            for number in 0..2000 {
                let key = super::super::request::hex_digest(&[number as u8, (number >> 8) as u8]);
                let answer = answer(&text);
                let put = store.put(&key, &answer, "s", Spending::default());
                put.await.unwrap();
            }
        });
        let start = std::time::Instant::now();
        for number in (0..20_000).map(|number| number % 2000) {
            let key = super::super::request::hex_digest(&[number as u8, (number >> 8) as u8]);
            assert!(store.get(&key).unwrap().is_some());
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!(seconds < 4.0, "20,000 stored answers took {seconds} s");
    }
}
