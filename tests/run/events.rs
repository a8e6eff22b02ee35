//! TensorBoard's event files, read far enough to hold them against `metrics.jsonl`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::home::metrics;

/// A scalar: step, tag, value.
pub type Scalar = (u64, String, f32);

/// All scalars of a training stage, both checksums of every record held against it.
pub fn scalars(stage: &Path) -> Vec<Scalar> {
    let file = fs::read(stage.join("events.out.tfevents")).unwrap();
    let (mut rest, mut found) = (file.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        check(&rest[..8], &rest[8..12]);
        let (data, after) = rest[12..].split_at(length);
        check(data, &after[..4]);
        rest = &after[4..];
        found.extend(of_event(data));
    }
    found
}

/// The numbers of `metrics.jsonl` as scalars.
pub fn expected(stage: &Path) -> Vec<Scalar> {
    let lines = metrics(stage);
    let of_line = |line: &Value| {
        let step = line["step"].as_u64().unwrap();
        let mut found = Vec::new();
        collect(line, "", &mut found);
        if let Some(seconds) = line["seconds"].as_f64() {
            let speed = line["tokens"].as_f64().unwrap() / seconds;
            found.push(("tokens_per_second".to_string(), speed));
        }
        found.retain(|(tag, _)| tag != "step");
        let scalars = found.into_iter();
        scalars.map(move |(tag, value)| (step, tag, value as f32))
    };
    lines.iter().flat_map(of_line).collect()
}

fn collect(value: &Value, tag: &str, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let tag = if tag.is_empty() {
                key.clone()
            } else {
                format!("{tag}/{key}")
            };
            collect(value, &tag, found);
        }),
        Value::Number(number) => found.push((tag.to_string(), number.as_f64().unwrap())),
        _ => {}
    }
}

fn check(data: &[u8], stored: &[u8]) {
    let checksum = crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8);
    assert_eq!(stored, checksum.to_le_bytes());
}

fn of_event(data: &[u8]) -> Vec<Scalar> {
    let (mut step, mut found) = (0, Vec::new());
    for (field, number, bytes) in fields(data) {
        match field {
            2 => step = number,
            5 => found.extend(fields(bytes).into_iter().map(|(_, _, value)| scalar(value))),
            _ => {}
        }
    }
    let scalars = found.into_iter();
    scalars.map(|(tag, value)| (step, tag, value)).collect()
}

fn scalar(data: &[u8]) -> (String, f32) {
    let (mut tag, mut value) = (String::new(), f32::NAN);
    for (field, number, bytes) in fields(data) {
        match field {
            1 => tag = String::from_utf8(bytes.to_vec()).unwrap(),
            _ => value = f32::from_bits(number as u32),
        }
    }
    (tag, value)
}

/// The fields of a message: number, value where it is one, bytes where it has some.
fn fields(mut data: &[u8]) -> Vec<(u8, u64, &[u8])> {
    let mut found = Vec::new();
    while let Some((&key, rest)) = data.split_first() {
        let (number, bytes, after) = match key & 7 {
            0 => {
                let (number, after) = varint(rest);
                (number, &rest[..0], after)
            }
            1 => (0, &rest[..8], &rest[8..]),
            2 => {
                let (length, after) = varint(rest);
                let (bytes, after) = after.split_at(length as usize);
                (length, bytes, after)
            }
            5 => {
                let bits = u32::from_le_bytes(rest[..4].try_into().unwrap());
                (u64::from(bits), &rest[..0], &rest[4..])
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, number, bytes));
        data = after;
    }
    found
}

fn varint(data: &[u8]) -> (u64, &[u8]) {
    let (mut number, mut at) = (0, 0);
    loop {
        number |= u64::from(data[at] & 0x7f) << (7 * at);
        at += 1;
        if data[at - 1] < 0x80 {
            return (number, &data[at..]);
        }
    }
}
