//! What came of every sample of an evaluation, a JSON line each. While it runs they lie beside their place, so that it can
//! go on; at the end they are written whole, in the order of the samples.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use model::weights::staged_file::replace_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum RecordsError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "another evaluation is writing {}\nhint: wait for it, or name another file", .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "{} holds records of another evaluation, or something else\n\
         hint: remove it, or name another file", .0.display()
    )]
    Other(PathBuf),
}

/// Records of one evaluation by the number of their sample.
pub struct SampleRecords<R> {
    /// Where they lie at the end, and meanwhile; nowhere for an evaluation that keeps none.
    place: Option<Place>,
    known: BTreeMap<usize, R>,
}

struct Place {
    path: PathBuf,
    meanwhile: PathBuf,
    /// Locked as long as it is open.
    file: File,
    is_of_stage: bool,
}

/// The first line meanwhile: what the records are of.
#[derive(Serialize, Deserialize)]
struct Heading {
    evaluation: String,
}

#[derive(Serialize, Deserialize)]
struct Line<R> {
    sample: usize,
    record: R,
}

impl<R: Serialize + DeserializeOwned + Clone> SampleRecords<R> {
    /// Records that nobody keeps.
    pub fn unkept() -> Self {
        Self {
            place: None,
            known: BTreeMap::new(),
        }
    }

    /// Records for `path`. Those that an interrupted evaluation of the same `evaluation`, a digest of all that determines
    /// them, has left are known already.
    ///
    /// # Errors
    /// When the files cannot be read or written, when another evaluation is writing them or has left its own.
    pub fn open(path: &Path, evaluation: &str) -> Result<Self, RecordsError> {
        Self::begin(path, evaluation, false)
    }

    /// Like [`open`](Self::open), for a file in a stage's own directory: what is of another evaluation goes. All that is
    /// known stays beside the finished file until [`remove_meanwhile`], so that a stage of several models goes on.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn of_stage(path: &Path, evaluation: &str) -> Result<Self, RecordsError> {
        Self::begin(path, evaluation, true)
    }

    fn begin(path: &Path, evaluation: &str, is_of_stage: bool) -> Result<Self, RecordsError> {
        let meanwhile = meanwhile(path);
        let failed = |action| {
            let path = meanwhile.clone();
            move |source| RecordsError::Io {
                action,
                path,
                source,
            }
        };
        let options = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .clone();
        let mut file = options.open(&meanwhile).map_err(failed("write"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RecordsError::InUse(meanwhile)),
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let found = known(&bytes, evaluation);
        if found.is_none() && !bytes.is_empty() && !is_of_stage {
            return Err(RecordsError::Other(meanwhile));
        }
        let (known, whole) = found.unwrap_or_default();
        let mut begin = || -> io::Result<()> {
            file.set_len(whole as u64)?;
            if whole == 0 {
                let evaluation = evaluation.to_string();
                file.write_all(&line(&Heading { evaluation })?)?;
            }
            Ok(())
        };
        begin().map_err(failed("write"))?;
        let place = Place {
            path: path.to_path_buf(),
            meanwhile,
            file,
            is_of_stage,
        };
        Ok(Self {
            place: Some(place),
            known,
        })
    }

    pub fn get(&self, sample: usize) -> Option<&R> {
        self.known.get(&sample)
    }

    /// # Errors
    /// When the disk is full.
    pub fn append(&mut self, records: Vec<(usize, R)>) -> Result<(), RecordsError> {
        if let Some(place) = &mut self.place {
            let mut text = Vec::new();
            let lines = records.iter().try_for_each(|(sample, record)| {
                let (sample, record) = (*sample, record.clone());
                line(&Line { sample, record }).map(|line| text.extend(line))
            });
            lines
                .and_then(|()| place.file.write_all(&text))
                .map_err(|source| RecordsError::Io {
                    action: "write",
                    path: place.meanwhile.clone(),
                    source,
                })?;
        }
        self.known.extend(records);
        Ok(())
    }

    /// All records in the order of their samples, which now lie in their place.
    ///
    /// # Errors
    /// When the disk is full; what was kept meanwhile stays.
    pub fn finish(self) -> Result<Vec<R>, RecordsError> {
        let records: Vec<R> = self.known.into_values().collect();
        if let Some(place) = self.place {
            let write = || -> io::Result<()> {
                let mut text = Vec::new();
                for record in &records {
                    text.extend(line(record)?);
                }
                replace_file(&place.path, ".partial-", &text)?;
                match place.is_of_stage {
                    true => Ok(()),
                    false => fs::remove_file(&place.meanwhile),
                }
            };
            write().map_err(|source| RecordsError::Io {
                action: "write",
                path: place.path.clone(),
                source,
            })?;
        }
        Ok(records)
    }
}

/// Removes what a stage has kept beside the finished file at `path`, if anything.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_meanwhile(path: &Path) -> Result<(), RecordsError> {
    let path = meanwhile(path);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordsError::Io {
            action: "remove",
            path,
            source,
        }),
        _ => Ok(()),
    }
}

fn meanwhile(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.partial"))
}

/// The whole records behind the heading of `evaluation`, and their bytes with it; None where there is another heading.
fn known<R: DeserializeOwned>(
    bytes: &[u8],
    evaluation: &str,
) -> Option<(BTreeMap<usize, R>, usize)> {
    let mut lines = bytes
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let heading = lines.next().filter(|line| {
        let heading = serde_json::from_slice::<Heading>(line);
        heading.is_ok_and(|heading| heading.evaluation == evaluation)
    })?;
    let (mut known, mut whole) = (BTreeMap::new(), heading.len());
    for line in lines {
        let Ok(Line { sample, record }) = serde_json::from_slice::<Line<R>>(line) else {
            break;
        };
        known.insert(sample, record);
        whole += line.len();
    }
    Some((known, whole))
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_evaluation_goes_on_and_another_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("records.jsonl");
        let open = |evaluation: &str| SampleRecords::<String>::open(&path, evaluation).unwrap();
        let mut records = open("a");
        records
            .append(vec![(2, "two".into()), (5, "five".into())])
            .unwrap();
        drop(records);
        let meanwhile = place.path().join("records.jsonl.partial");
        let mut torn = OpenOptions::new().append(true).open(&meanwhile).unwrap();
        torn.write_all(b"{\"sample\":7,\"record\":\"\xc3").unwrap();
        let mut records = open("a");
        assert_eq!(records.get(5).map(String::as_str), Some("five"));
        assert_eq!(records.get(7), None);
        records.append(vec![(1, "one".into())]).unwrap();
        assert_eq!(records.finish().unwrap(), ["one", "two", "five"]);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "\"one\"\n\"two\"\n\"five\"\n"
        );
        assert!(!meanwhile.exists());
        let mut records = open("a");
        records.append(vec![(1, "one".into())]).unwrap();
        let error = |evaluation: &str| {
            let opened = SampleRecords::<String>::open(&path, evaluation);
            opened.err().unwrap().to_string()
        };
        assert!(error("a").contains("another evaluation is writing"));
        drop(records);
        assert!(error("b").contains("records of another evaluation"));
        assert_eq!(open("a").get(1).map(String::as_str), Some("one"));
        let of_stage = |evaluation| SampleRecords::<String>::of_stage(&path, evaluation).unwrap();
        let mut records = of_stage("b");
        assert_eq!(records.get(1), None);
        records.append(vec![(3, "three".into())]).unwrap();
        assert_eq!(records.finish().unwrap(), ["three"]);
        assert_eq!(of_stage("b").get(3).map(String::as_str), Some("three"));
        remove_meanwhile(&path).unwrap();
        assert!(path.exists() && !meanwhile.exists());
    }
}
