//! How the process takes memory from the system.
//!
//! A training step makes thousands of large arrays and frees them again, the same in every step. glibc would map, zero
//! page by page and unmap each of them; told to keep them, it lets small blocks settle between them, and the next
//! step's arrays do not fit where those of this one were. So large blocks have a range of addresses of their own: the
//! lowest free place that is large enough is taken, and what is freed joins its neighbours. Memory then stays at what a
//! step needs, and no step after the first asks the system for any. Small blocks are left to the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Blocks from this size on are large.
pub const LARGE: usize = 128 << 10;
const PAGE: usize = 4096;
/// Addresses set aside, not memory: more than any machine has.
const RESERVED: usize = 1 << 40;

/// The allocator of the program.
pub struct Allocator;

static HEAP: Mutex<Heap> = Mutex::new(Heap::new(RESERVED));
/// First address of the large blocks; `None` where the system sets no addresses aside.
static BASE: OnceLock<Option<usize>> = OnceLock::new();

/// Which parts of the range are free, in bytes from its start. A plan places what it foresees with one of its own.
pub struct Heap {
    /// Start and size of what is free below `end`; no two of them touch.
    free: BTreeMap<usize, usize>,
    /// Nothing from here on has been used yet: it holds zeros and no memory.
    end: usize,
    /// Bytes that the range has.
    limit: usize,
}

impl Heap {
    pub const fn new(limit: usize) -> Self {
        Self {
            free: BTreeMap::new(),
            end: 0,
            limit,
        }
    }

    /// The lowest free place for `size` bytes, and how many of them have been used before.
    pub fn take(&mut self, size: usize) -> Option<(usize, usize)> {
        let fitting = self.free.iter().find(|(_, free)| **free >= size);
        if let Some((&start, &free)) = fitting {
            self.free.remove(&start);
            if free > size {
                self.free.insert(start + size, free - size);
            }
            return Some((start, size));
        }
        let last = self.free.last_key_value();
        let start = match last {
            Some((&start, &free)) if start + free == self.end => start,
            _ => self.end,
        };
        if size > self.limit - start {
            return None;
        }
        let used = self.end - start;
        self.free.remove(&start);
        self.end = start + size;
        Some((start, used))
    }

    pub fn give(&mut self, mut start: usize, mut size: usize) {
        if let Some(next) = self.free.remove(&(start + size)) {
            size += next;
        }
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            (start, size) = (before, free + size);
        }
        self.free.insert(start, size);
    }
}

fn heap() -> MutexGuard<'static, Heap> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a block of `size` bytes takes.
pub fn pages(size: usize) -> usize {
    size.next_multiple_of(PAGE)
}

/// Where `pointer` lies in the range of large blocks.
fn offset(pointer: *mut u8) -> Option<usize> {
    let base = (*BASE.get()?)?;
    let offset = (pointer as usize).wrapping_sub(base);
    (offset < RESERVED).then_some(offset)
}

/// A large block and how many of its bytes may differ from 0; `None` where the system's allocator has to serve.
fn take_large(layout: Layout) -> Option<(*mut u8, usize)> {
    if layout.size() < LARGE || layout.align() > PAGE || layout.size() > RESERVED {
        return None;
    }
    let base = (*BASE.get_or_init(reserve))?;
    let (start, used) = heap().take(pages(layout.size()))?;
    Some(((base + start) as *mut u8, used))
}

// SAFETY: a block is either the system allocator's or a stretch of the range that nobody else has; `offset` tells
// which, so that each goes back where it came from. Nothing here panics.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match take_large(layout) {
            Some((block, _)) => block,
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match take_large(layout) {
            Some((block, used)) => {
                unsafe { block.write_bytes(0, used.min(layout.size())) };
                block
            }
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match offset(block) {
            Some(start) => heap().give(start, pages(layout.size())),
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if offset(block).is_none() && size < LARGE {
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller's `size` fits the alignment, and both blocks hold what is copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(target_os = "linux")]
fn reserve() -> Option<usize> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at a place of the system's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), RESERVED, protection, kind, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    Some(base as usize)
}

#[cfg(not(target_os = "linux"))]
fn reserve() -> Option<usize> {
    None
}

/// Asks for pages of 2 MiB from now on. A training step is a few percent faster with them; the system takes longer to
/// clear them, which what runs for a moment would not earn back.
#[cfg(target_os = "linux")]
pub fn use_huge_pages() {
    if let Some(base) = *BASE.get_or_init(reserve) {
        // SAFETY: it changes how these addresses are backed, not what they hold.
        unsafe { libc::madvise(base as *mut _, RESERVED, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub fn use_huge_pages() {}

/// Returns what is free now: between stages, which need different amounts.
#[cfg(target_os = "linux")]
pub fn return_freed_memory() {
    if let Some(base) = BASE.get().copied().flatten() {
        for (start, size) in &heap().free {
            // SAFETY: nobody has these pages; they come back, as zeros, when they are used again.
            unsafe { libc::madvise((base + start) as *mut _, *size, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it only gives back pages that no allocation uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_os = "linux"))]
pub fn return_freed_memory() {}

/// Keeps small blocks too when they are freed: by default glibc shrinks and grows its heap all the time.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets a parameter of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_place_is_taken_and_neighbours_join() {
        let mut heap = Heap::new(RESERVED);
        let starts: Vec<_> = [10, 20, 30].map(|size| heap.take(size)).to_vec();
        assert_eq!(starts, [Some((0, 0)), Some((10, 0)), Some((30, 0))]);
        heap.give(0, 10);
        heap.give(30, 30);
        assert_eq!(heap.take(5), Some((0, 5)));
        // The end grows: 30 of these 40 bytes have been used.
        assert_eq!(heap.take(40), Some((30, 30)));
        heap.give(10, 20);
        assert_eq!(heap.take(25), Some((5, 25)));
        heap.give(0, 5);
        heap.give(30, 40);
        heap.give(5, 25);
        assert_eq!(heap.free, BTreeMap::from([(0, 70)]));
        assert_eq!(heap.take(RESERVED + 1), None);
        assert_eq!(heap.take(70), Some((0, 70)));
    }

    #[test]
    fn blocks_keep_what_they_hold_and_zeroed_ones_are_zero() {
        let mut values: Vec<u32> = Vec::new();
        values.extend(0..1_000_000);
        let copy = values.clone();
        values.extend(0..1_000_000);
        values.truncate(1_000_000);
        values.shrink_to_fit();
        assert_eq!(values, copy);
        drop((values, copy));
        assert!(vec![0_u8; 3_000_000].iter().all(|byte| *byte == 0));
    }
}
