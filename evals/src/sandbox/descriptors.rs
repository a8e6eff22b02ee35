//! Open files of a process: none that it should not have.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::dup2_raw;

/// Numbers from here on are out of the way of those that a program gets.
const ASIDE: RawFd = 16;

fn close_range(first: u32, flags: u32) -> io::Result<()> {
    // SAFETY: closes numbers, reads no memory. Callers own nothing among them that they use afterwards.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes what was inherited (Linux 5.9).
pub fn close_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

/// Leaves nothing from `first` on to the program that this process becomes (Linux 5.11).
pub fn close_from_at_start(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// The same file under a number that no program gets.
pub fn aside(file: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let number = fcntl(file.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(ASIDE))?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives a file the number that a program expects it at.
pub fn place(file: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: whatever has the number is closed by it; the caller moved its own files aside. The result is left open.
    let placed = unsafe { dup2_raw(file.as_fd(), number) }?;
    std::mem::forget(placed);
    Ok(())
}
