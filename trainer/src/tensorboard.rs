//! `events.out.tfevents`: what `metrics.jsonl` says, as TensorBoard reads it.
//!
//! TFRecord framing as in `tensorflow/core/lib/io/record_writer.h`; messages as in `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto`. Every number of a line is a scalar under its key; of a nested one the keys
//! are joined by `/`.
//!
//! The file follows from the lines, so a resumed run neither repeats nor misses a step. It grows with them. The clock of
//! its events is the time spent in steps since the first one began: where a run was interrupted there is no gap.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use model::weights::staged_file::replace_file;
use serde_json::Value;

/// TensorBoard takes a file for its own whose name holds `tfevents`.
pub const EVENTS: &str = "events.out.tfevents";
const VERSION: &str = "brain.Event:2";
/// Bytes of a record beside its data: length, checksum of the length, checksum of the data.
const FRAME: usize = 16;

/// An open file of events.
pub struct EventFile {
    file: File,
    clock: Clock,
}

/// Seconds since 1970 of the next event.
struct Clock(f64);

impl EventFile {
    /// The events of the `lines` that are there, and after them those of lines to come. What the file held beyond is cut
    /// off where it lies, so that a TensorBoard that reads along finds what follows at the same places.
    ///
    /// # Errors
    /// What the file system says.
    pub fn resume(path: &Path, lines: &[u8]) -> io::Result<Self> {
        let records = || {
            let lines = lines.split(|byte| *byte == b'\n');
            lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        };
        let spent: f64 = records().map(|record| seconds(&record)).sum();
        let begun = match lines.is_empty() {
            true => None,
            false => first_time(path),
        };
        let begun = begun.unwrap_or_else(|| now() - spent);
        let mut clock = Clock(begun);
        let mut bytes = record(&event(begun, 0, &text(3, VERSION)));
        for line in records() {
            bytes.extend(clock.record(&line));
        }
        let file = match fs::read(path) {
            Ok(there) if there.starts_with(&bytes) => {
                let file = OpenOptions::new().append(true).open(path)?;
                file.set_len(bytes.len() as u64)?;
                file
            }
            Ok(_) if !lines.is_empty() => {
                replace_file(path, ".partial-", &bytes)?;
                OpenOptions::new().append(true).open(path)?
            }
            _ => {
                let mut file = File::create(path)?;
                file.write_all(&bytes)?;
                file
            }
        };
        Ok(Self { file, clock })
    }

    /// Adds the numbers of a line.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, line: &Value) -> io::Result<()> {
        self.file.write_all(&self.clock.record(line))
    }
}

impl Clock {
    fn record(&mut self, line: &Value) -> Vec<u8> {
        self.0 += seconds(line);
        let mut scalars = Vec::new();
        collect(line, "", &mut scalars);
        if let (Some(tokens), true) = (line["tokens"].as_f64(), seconds(line) > 0.0) {
            scalars.push(("tokens_per_second".to_string(), tokens / seconds(line)));
        }
        let values = scalars.iter().flat_map(|(tag, value)| {
            let number = (*value as f32).to_le_bytes();
            let value = [text(1, tag), vec![(2 << 3) | 5], number.to_vec()].concat();
            bytes(1, &value)
        });
        let summary: Vec<u8> = values.collect();
        let step = line["step"].as_u64().unwrap_or(0);
        record(&event(self.0, step, &bytes(5, &summary)))
    }
}

/// What a step took; nothing of an evaluation.
fn seconds(line: &Value) -> f64 {
    line["seconds"].as_f64().unwrap_or(0.0)
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn collect(value: &Value, tag: &str, scalars: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match tag {
                    "" if key == "step" => {}
                    "" => collect(value, key, scalars),
                    _ => collect(value, &format!("{tag}/{key}"), scalars),
                }
            }
        }
        Value::Number(number) => scalars.extend(number.as_f64().map(|n| (tag.to_string(), n))),
        _ => {}
    }
}

/// A message `Event`: `wall_time`, `step`, and `what`, a field already.
fn event(time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut message = vec![(1 << 3) | 1];
    message.extend(time.to_le_bytes());
    message.push(2 << 3);
    message.extend(varint(step));
    message.extend(what);
    message
}

fn text(field: u8, text: &str) -> Vec<u8> {
    bytes(field, text.as_bytes())
}

/// A field of bytes, a text or a message.
fn bytes(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut found = vec![(field << 3) | 2];
    found.extend(varint(bytes.len() as u64));
    found.extend(bytes);
    found
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut found = Vec::new();
    while number >= 0x80 {
        found.push(number as u8 | 0x80);
        number >>= 7;
    }
    found.push(number as u8);
    found
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut found = Vec::with_capacity(data.len() + FRAME);
    found.extend(length);
    found.extend(masked_checksum(&length).to_le_bytes());
    found.extend(data);
    found.extend(masked_checksum(data).to_le_bytes());
    found
}

/// CRC-32C, turned and shifted: `tensorflow/core/lib/hash/crc32c.h`.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// When the first event of the file was, if there is a whole one.
fn first_time(path: &Path) -> Option<f64> {
    let mut first = vec![0; 21];
    File::open(path).ok()?.read_exact(&mut first).ok()?;
    let time = first[13..21].try_into().ok()?;
    Some(f64::from_le_bytes(time)).filter(|time| first[12] == (1 << 3) | 1 && time.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The data of each record, its two checksums held against it.
    fn records(file: &[u8]) -> Vec<Vec<u8>> {
        let (mut rest, mut found) = (file, Vec::new());
        let checksum = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(checksum(&rest[8..]), masked_checksum(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(checksum(&rest[12 + length..]), masked_checksum(data));
            found.push(data.to_vec());
            rest = &rest[FRAME + length..];
        }
        found
    }

    fn steps(file: &[u8]) -> Vec<u8> {
        let records = records(file);
        records.iter().map(|data| data[10]).collect()
    }

    fn line(step: u64) -> Value {
        json!({ "step": step, "loss": 1.5, "tokens": 8, "seconds": 2.0, "pairs": null,
                "losses": { "forward_kl.0": 0.5 }, "packing": "pack" })
    }

    fn lines(steps: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let lines = steps.map(|step| line(step).to_string() + "\n");
        lines.collect::<String>().into_bytes()
    }

    /// What TensorBoard 2.21 writes, by `tests/golden/check_tensorboard.py --bytes`.
    #[test]
    fn a_record_has_the_bytes_that_tensorboard_writes() {
        let mut clock = Clock(100.25);
        let made = clock.record(&json!({ "step": 300, "loss": 1.5 }));
        let made: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "1b000000000000001a0d9e1309000000000010594010ac022a0d0a0b0a046c6f7373150000c03fe8374acd";
        assert_eq!(made, golden);
    }

    #[test]
    fn each_number_is_a_scalar_under_its_key() {
        let mut scalars = Vec::new();
        collect(&line(3), "", &mut scalars);
        let tags: Vec<&str> = scalars.iter().map(|(tag, _)| tag.as_str()).collect();
        assert_eq!(tags, ["loss", "tokens", "seconds", "losses/forward_kl.0"]);
    }

    #[test]
    fn a_resumed_file_has_every_step_once_and_the_same_bytes_before() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(EVENTS);
        let mut events = EventFile::resume(&path, b"").unwrap();
        for step in 1..=5 {
            events.write(&line(step)).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        assert_eq!(steps(&whole), [0, 1, 2, 3, 4, 5]);
        // A kill has cut the last record.
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut events = EventFile::resume(&path, &lines(1..=3)).unwrap();
        for step in 4..=5 {
            events.write(&line(step)).unwrap();
        }
        assert!(fs::read(&path).unwrap() == whole);
        // One that is gone or of something else follows from the lines, and its last step is now.
        fs::write(&path, "something else, and long enough").unwrap();
        let before = now();
        EventFile::resume(&path, &lines(1..=3)).unwrap();
        assert_eq!(steps(&fs::read(&path).unwrap()), [0, 1, 2, 3]);
        let begun = first_time(&path).unwrap();
        assert!((begun + 6.0 - before).abs() < 5.0, "{begun} {before}");
        // From the start.
        EventFile::resume(&path, b"").unwrap();
        assert_eq!(steps(&fs::read(&path).unwrap()), [0]);
    }
}
