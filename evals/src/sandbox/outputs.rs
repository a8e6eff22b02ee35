//! Standard output and error of a process, the beginning of each.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::Child;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that are kept of each.
const KEPT: usize = 64 << 10;

pub struct Outputs {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub is_cut: bool,
}

/// Reads until nobody can write any more. What is too much is read, so that the process can go on, and not kept.
///
/// # Errors
/// A process that still writes at `end`.
pub fn read_both(process: &mut Child, end: Instant) -> io::Result<Outputs> {
    let mut streams: Vec<(Box<dyn Stream>, usize)> = Vec::new();
    if let Some(stdout) = process.stdout.take() {
        streams.push((Box::new(stdout), 0));
    }
    if let Some(stderr) = process.stderr.take() {
        streams.push((Box::new(stderr), 1));
    }
    let mut kept = [Vec::new(), Vec::new()];
    let mut is_cut = false;
    let mut buffer = vec![0; KEPT];
    while !streams.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut events: Vec<PollFd> = (streams.iter())
            .map(|(stream, _)| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut events, timeout) {
            Ok(_) if left.is_zero() => {
                return Err(io::Error::other("the sandbox does not come to an end"));
            }
            Ok(0) | Err(nix::Error::EINTR) => continue,
            polled => polled?,
        };
        let ready: Vec<bool> = events.iter().map(|e| e.any().unwrap_or(true)).collect();
        let mut at = 0;
        let mut failure = None;
        streams.retain_mut(|(stream, number)| {
            at += 1;
            if !ready[at - 1] {
                return true;
            }
            match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => {
                    let room = KEPT - kept[*number].len();
                    is_cut |= length > room;
                    kept[*number].extend_from_slice(&buffer[..length.min(room)]);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                Err(error) => {
                    failure = Some(error);
                    false
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
    }
    let [stdout, stderr] = kept;
    Ok(Outputs {
        stdout,
        stderr,
        is_cut,
    })
}

trait Stream: Read + AsFd {}
impl<T: Read + AsFd> Stream for T {}
