//! What a run and its launcher tell each other over a socket: one request, one report.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::interpreter::Interpreter;
use super::limits::Limits;
use super::protection::Missing;

/// More than any request is.
const LARGEST: u32 = 1 << 28;

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub python: Interpreter,
    pub limits: Limits,
    pub code: String,
    pub checks: String,
    /// What the driver writes at the end; nobody else knows it.
    pub marker: String,
    /// Directories of cgroups that the launcher joins.
    pub cgroups: Vec<PathBuf>,
    /// Go on where a protection cannot be had.
    pub unsafe_execution: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    Ended(Ended),
    /// The program was not run.
    Refused(Vec<Missing>),
    Failed(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    pub ending: Ending,
    /// What came through the result's pipe, its beginning.
    pub said: Vec<u8>,
    pub seconds: f64,
    /// Protections that the program ran without.
    pub missing: Vec<Missing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    Exited(i32),
    Killed(i32),
    TimedOut,
}

/// Length first: the end of the stream is the sign that the other side is gone.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).ok().filter(|n| *n <= LARGEST);
    let length = length.ok_or_else(|| io::Error::other("a program of more than 256 MiB"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)
}

pub fn receive<T: for<'a> Deserialize<'a>>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
