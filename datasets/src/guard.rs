//! The table reader panics on some damaged files and unknown column types; here that becomes an error like any other.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

static GUARDED: AtomicUsize = AtomicUsize::new(0);
/// What the last panic inside the reader said; it may have happened on one of the reader's own threads.
static MESSAGE: Mutex<String> = Mutex::new(String::new());

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it is not printed but returned as its message.
pub(crate) fn without_panics<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    GUARDED.fetch_add(1, Ordering::SeqCst);
    INSIDE.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(false);
    GUARDED.fetch_sub(1, Ordering::SeqCst);
    result.map_err(|_| std::mem::take(&mut *MESSAGE.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Keeps the reader's panics from the terminal while guarded work runs; all others are reported as before.
fn install_hook() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_reader = panic
                .location()
                .is_some_and(|l| l.file().contains("polars"));
            if INSIDE.get() || (of_reader && GUARDED.load(Ordering::SeqCst) > 0) {
                let text = panic.payload_as_str().unwrap_or("the reader stopped");
                *MESSAGE.lock().unwrap_or_else(PoisonError::into_inner) = text.to_string();
            } else {
                previous(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(without_panics(|| 3), Ok(3));
        assert_eq!(
            without_panics(|| -> u8 { panic!("column {}", 7) }),
            Err("column 7".into())
        );
    }
}
