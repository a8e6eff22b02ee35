//! How the process asks the system for memory.

/// Keeps freed memory instead of returning it, in one heap for all threads.
///
/// By default glibc maps every block above 128 KiB (later up to 32 MiB) and unmaps it when it is
/// freed: the tensors of a training step would be mapped, zeroed page by page and returned at
/// every operation, which costs a quarter of the step. Without a threshold and without trimming
/// they are reused. A heap of its own for each thread could hold no block above 64 MiB, and what one
/// thread frees would not serve another.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_memory() {
    const MIB: libc::c_int = 1 << 20;
    // SAFETY: mallopt only sets parameters of the allocator; no other thread runs yet.
    unsafe {
        if libc::mallopt(libc::M_MMAP_THRESHOLD, 1024 * MIB) == 0 {
            // Before glibc 2.34 there was a greatest threshold.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MIB);
        }
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 * MIB);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns what is free now: between stages, which need different amounts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_freed_memory() {
    // SAFETY: it only gives back pages that no allocation uses.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_freed_memory() {}
