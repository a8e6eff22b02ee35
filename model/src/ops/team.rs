//! Threads that stay awake through a sequence of short parallel loops.
//!
//! Generating a token takes over a hundred loops of some ten microseconds. Waking a sleeping thread takes as long as
//! such a loop, so helpers from rayon's pool look for work without sleeping until the whole sequence is done.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// Looks at an empty counter before a helper lets another thread of the machine run.
const LOOKS: usize = 4096;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The thread that runs the sequence, and its helpers.
pub struct Team {
    /// Tasks of the current loop that nobody has taken; zero or less when there are none.
    untaken: AtomicIsize,
    /// Tasks of the current loop that are not done.
    undone: AtomicIsize,
    /// Written before `untaken` is raised, read only by those who have taken a task; so it is never written while it
    /// may be read.
    task: UnsafeCell<Option<*const Task<'static>>>,
    dismissed: AtomicBool,
}

// SAFETY: `task` is guarded by the counters as its comment says.
unsafe impl Sync for Team {}

/// Runs `sequence` with as many threads as rayon's pool has; those that are busy elsewhere come later or not at all.
pub fn with_team<T>(sequence: impl FnOnce(&Team) -> T) -> T {
    let team = Team {
        untaken: AtomicIsize::new(0),
        undone: AtomicIsize::new(0),
        task: UnsafeCell::new(None),
        dismissed: AtomicBool::new(false),
    };
    rayon::in_place_scope(|scope| {
        let _dismissal = OnDrop(|| team.dismissed.store(true, Ordering::Release));
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| team.help());
        }
        sequence(&team)
    })
}

impl Team {
    /// Calls `task` with every number below `count`, each once, on whichever thread is free.
    pub fn run<'a>(&self, count: usize, task: &(dyn Fn(usize) + Sync + 'a)) {
        let task: *const Task<'a> = task;
        // SAFETY: only the lifetime changes; this call returns after the last use of the task.
        let task = unsafe { std::mem::transmute::<*const Task<'a>, *const Task<'static>>(task) };
        // SAFETY: no task is untaken or undone, so nobody reads.
        unsafe { *self.task.get() = Some(task) };
        self.undone.store(count as isize, Ordering::Relaxed);
        self.untaken.store(count as isize, Ordering::Release);
        // Also when a task panics: helpers may still be at work on what the task borrows.
        let _end = OnDrop(|| {
            let left = self.untaken.swap(0, Ordering::Relaxed).max(0);
            self.undone.fetch_sub(left, Ordering::Relaxed);
            wait_until(|| self.undone.load(Ordering::Acquire) == 0);
        });
        while self.take_and_run() {}
    }

    fn help(&self) {
        while !self.dismissed.load(Ordering::Acquire) {
            wait_until(|| {
                self.untaken.load(Ordering::Relaxed) > 0 || self.dismissed.load(Ordering::Relaxed)
            });
            while self.take_and_run() {}
        }
    }

    /// False when there was none to take.
    fn take_and_run(&self) -> bool {
        if self.untaken.load(Ordering::Relaxed) <= 0 {
            return false;
        }
        let number = self.untaken.fetch_sub(1, Ordering::AcqRel) - 1;
        if number < 0 {
            return false;
        }
        let _done = OnDrop(|| {
            self.undone.fetch_sub(1, Ordering::Release);
        });
        // SAFETY: a task was taken and is not done, so the pointer is that of the current loop and `run` has not
        // returned.
        if let Some(task) = unsafe { *self.task.get() } {
            unsafe { (*task)(number as usize) };
        }
        true
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let mut looks = 0;
    while !condition() {
        looks += 1;
        match looks % LOOKS {
            0 => std::thread::yield_now(),
            _ => spin_loop(),
        }
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_task_runs_once_and_before_the_next_loop() {
        with_team(|team| {
            for round in 0..2000 {
                let counts: Vec<AtomicUsize> =
                    (0..round % 17).map(|_| AtomicUsize::new(0)).collect();
                team.run(counts.len(), &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        });
    }

    #[test]
    fn a_team_inside_a_busy_pool_ends() {
        rayon::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|_| {
                    let sum = AtomicUsize::new(0);
                    with_team(|team| {
                        for _ in 0..50 {
                            team.run(5, &|i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                        }
                    });
                    assert_eq!(sum.into_inner(), 500);
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_is_that_of_the_caller() {
        let caught = std::panic::catch_unwind(|| {
            with_team(|team| team.run(64, &|i| assert!(i != 40, "number 40")));
        });
        assert!(caught.is_err());
        with_team(|team| team.run(3, &|_| ()));
    }
}
