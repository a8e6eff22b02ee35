//! Text files in pieces, for training and for filters alike.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::config::Chunk;
use crate::error::DataError;
use crate::files::is_packed;
use crate::python::definitions;

/// Whether more is wanted.
pub type Step = Result<ControlFlow<()>, DataError>;

/// [`ControlFlow::Break`] where nothing more is.
pub fn go_on(more: bool) -> ControlFlow<()> {
    match more {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

const EXPECTED: &str = "UTF-8 text";
/// What some programs write before a text in UTF-8; no part of it.
pub(crate) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Hands the pieces of a text file to `each`, in their order. Blank lines are no pieces; a line ends with `\n` or `\r\n`, which
/// is no part of it, and the lines of a paragraph are joined with `\n`.
pub fn read_chunks(path: &Path, chunk: Chunk, each: &mut dyn FnMut(&str) -> Step) -> Step {
    match chunk {
        Chunk::File => each(&whole(path)?),
        Chunk::Definitions => {
            let text = whole(path)?;
            for definition in definitions(&text) {
                if each(&text[definition])?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        Chunk::Lines => read_lines(
            path,
            EXPECTED,
            &mut |_, line| match line.trim().is_empty() {
                true => Ok(ControlFlow::Continue(())),
                false => each(line),
            },
        ),
        Chunk::Paragraphs => {
            let mut paragraph = String::new();
            let flow = read_lines(path, EXPECTED, &mut |_, line| {
                if !line.trim().is_empty() {
                    if !paragraph.is_empty() {
                        paragraph.push('\n');
                    }
                    paragraph.push_str(line);
                    return Ok(ControlFlow::Continue(()));
                }
                match std::mem::take(&mut paragraph) {
                    none if none.is_empty() => Ok(ControlFlow::Continue(())),
                    whole => each(&whole),
                }
            })?;
            match flow.is_continue() && !paragraph.is_empty() {
                true => each(&paragraph),
                false => Ok(flow),
            }
        }
    }
}

fn whole(path: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    let mut text = String::from_utf8(bytes)
        .map_err(|error| malformed(path, EXPECTED, error.utf8_error().to_string()))?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.remove(0);
    }
    Ok(text)
}

/// The lines of a file with their numbers from 1, without their ends.
pub fn read_lines(
    path: &Path,
    expected: &'static str,
    each: &mut dyn FnMut(usize, &str) -> Step,
) -> Step {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut reader: Box<dyn BufRead> = match is_packed(path) {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(BufReader::with_capacity(1 << 20, file)),
    };
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.map_err(DataError::io("read", path))? == 0 {
            break;
        }
        let line = std::str::from_utf8(&bytes)
            .map_err(|error| malformed(path, expected, format!("line {number}: {error}")))?;
        let line = line
            .strip_prefix(BYTE_ORDER_MARK)
            .filter(|_| number == 1)
            .unwrap_or(line);
        if each(number, line.trim_end_matches(['\r', '\n']))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn malformed(path: &Path, expected: &'static str, found: String) -> DataError {
    DataError::Malformed {
        path: path.to_path_buf(),
        expected,
        found,
    }
}
