//! How the process ends: 0 success, 1 failure, 2 usage or a bad recipe; never a bare panic.

use std::io;
use std::process::ExitCode;

use crate::recipe::LoadError;
use crate::schema::UnknownKey;

const FAILURE: u8 = 1;
const USAGE: u8 = 2;

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongFlags(pub String);

/// Tells the user what went wrong and picks the exit code.
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", told(&error));
    if error.is::<UnknownKey>() || error.is::<WrongFlags>() {
        return ExitCode::from(USAGE);
    }
    match error.downcast_ref::<LoadError>() {
        Some(LoadError::Invalid(_)) => ExitCode::from(USAGE),
        _ => ExitCode::from(FAILURE),
    }
}

/// The error and its causes, without those that what stands above them has told already.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if io_kinds(error).any(|kind| kind == io::ErrorKind::StorageFull) {
        text +=
            "\nhint: make room on the disk and run the same command again; what was finished stays";
    }
    text
}

fn io_kinds(error: &anyhow::Error) -> impl Iterator<Item = io::ErrorKind> {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref());
    errors.map(io::Error::kind)
}

/// Whoever reads our output had enough (`distill … | head`): no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    io_kinds(error).any(|kind| kind == io::ErrorKind::BrokenPipe)
}

/// A panic is a bug of ours: one clear line, then the end, whichever thread it was in.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        // `println!` panics when the pipe that it writes to is closed.
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(0);
        }
        let place = panic
            .location()
            .map(|at| format!(" ({}:{})", at.file(), at.line()));
        eprintln!(
            "error: distill has met a bug of its own: {message}{}\n\
             hint: please report it with the command that you ran; RUST_BACKTRACE=1 shows more",
            place.unwrap_or_default()
        );
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
        std::process::exit(FAILURE.into());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_told_once() {
        let cause = || io::Error::other("no space");
        let plain = Err::<(), _>(cause()).context("cannot write a").unwrap_err();
        assert_eq!(told(&plain), "cannot write a: no space");
        let repeated = Err::<(), _>(cause()).context("a: no space").unwrap_err();
        assert_eq!(told(&repeated), "a: no space");
    }
}
