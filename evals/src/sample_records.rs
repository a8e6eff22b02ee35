//! What came of every sample of an evaluation, a JSON line each. While it runs they lie beside their place, so that it can
//! go on; at the end they are written whole, in the order of the samples.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use model::weights::staged_file::replace_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct RecordsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Records of one evaluation by the number of their sample.
pub struct SampleRecords<R> {
    /// Where they lie at the end, and meanwhile; nowhere for an evaluation that keeps none.
    place: Option<(PathBuf, PathBuf, File)>,
    known: BTreeMap<usize, R>,
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
    /// When the files cannot be read or written.
    pub fn open(path: &Path, evaluation: &str) -> Result<Self, RecordsError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let meanwhile = path.with_file_name(format!("{name}.partial"));
        let (mut known, mut whole) = (BTreeMap::new(), 0);
        if let Ok(text) = fs::read_to_string(&meanwhile) {
            let mut lines = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let heading = lines.next().filter(|line| {
                let heading = serde_json::from_str::<Heading>(line);
                heading.is_ok_and(|heading| heading.evaluation == evaluation)
            });
            if let Some(heading) = heading {
                whole = heading.len();
                for line in lines {
                    let Ok(Line { sample, record }) = serde_json::from_str::<Line<R>>(line) else {
                        break;
                    };
                    known.insert(sample, record);
                    whole += line.len();
                }
            }
        }
        let failed = |source| RecordsError {
            action: "write",
            path: meanwhile.clone(),
            source,
        };
        let open = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&meanwhile)?;
            file.set_len(whole as u64)?;
            if whole == 0 {
                let evaluation = evaluation.to_string();
                file.write_all(&line(&Heading { evaluation })?)?;
            }
            Ok(file)
        };
        let file = open().map_err(failed)?;
        Ok(Self {
            place: Some((path.to_path_buf(), meanwhile, file)),
            known,
        })
    }

    pub fn get(&self, sample: usize) -> Option<&R> {
        self.known.get(&sample)
    }

    /// # Errors
    /// When the disk is full.
    pub fn append(&mut self, records: Vec<(usize, R)>) -> Result<(), RecordsError> {
        if let Some((_, path, file)) = &mut self.place {
            let mut text = Vec::new();
            let lines = records.iter().try_for_each(|(sample, record)| {
                let (sample, record) = (*sample, record.clone());
                line(&Line { sample, record }).map(|line| text.extend(line))
            });
            lines
                .and_then(|()| file.write_all(&text))
                .map_err(|source| RecordsError {
                    action: "write",
                    path: path.clone(),
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
        if let Some((path, meanwhile, _)) = self.place {
            let write = || -> io::Result<()> {
                let mut text = Vec::new();
                for record in &records {
                    text.extend(line(record)?);
                }
                replace_file(&path, ".partial-", &text)?;
                fs::remove_file(&meanwhile)
            };
            write().map_err(|source| RecordsError {
                action: "write",
                path: path.clone(),
                source,
            })?;
        }
        Ok(records)
    }
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
    fn an_interrupted_evaluation_goes_on_and_another_begins_afresh() {
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
        torn.write_all(b"{\"sample\":7,\"rec").unwrap();
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
        drop(records);
        assert_eq!(open("b").get(1), None);
    }
}
