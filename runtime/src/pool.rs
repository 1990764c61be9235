//! Threads that run the parts of one grid at a time.
//!
//! The caller takes part. Workers join a job if they are awake in time, and nobody waits for those that are not; they spin
//! briefly between jobs, then sleep. Parts are handed out in order from one counter, so results depend on which thread
//! did a part only if kernels break the ABI.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};

use crate::load::KernelFn;

/// A call of one kernel over a grid.
#[derive(Clone, Copy)]
pub struct Job {
    pub kernel: KernelFn,
    pub args: *const *mut u8,
    pub dims: *const i64,
    /// Scratch of the caller; worker `i` has its own, `i * scratch_stride` further.
    pub scratch: *mut u8,
    pub scratch_stride: usize,
    pub grid: i64,
    /// Grid points of a part.
    pub part: i64,
}

/// Bit that tells that a job takes no more workers; below it their number, above it the job's number.
const CLOSED: u64 = 1 << 31;
const NUMBER: u64 = 1 << 32;
const SPINS: u32 = 4000;

/// Grid points that a job may have.
pub const MAX_GRID: i64 = 1 << 48;
/// Threads that a pool may have.
pub const MAX_THREADS: usize = 1 << 10;

struct Shared {
    state: AtomicU64,
    next: AtomicI64,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the pool's owner while the state is closed with no workers inside, and read only by
// workers that have joined. The pointers in it are valid while the job is open (`Pool::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The threads of a session.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included. Has fewer when the system refuses to start them.
    pub fn new(threads: usize) -> Pool {
        let count = threads.min(MAX_THREADS).saturating_sub(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            next: AtomicI64::new(0),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(count);
        for i in 0..count {
            let shared = Arc::clone(&shared);
            match thread::Builder::new().name(format!("tersor-{i}")).spawn(move || work(&shared, i)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        let handles = workers.iter().map(|w| w.thread().clone()).collect();
        Pool { shared, workers, handles }
    }

    /// Threads that take part, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs all parts of a job and returns when they are done.
    ///
    /// # Safety
    /// The job's kernel and pointers must satisfy the kernel ABI for every part of the grid, with scratch for every thread;
    /// `1 <= part <= grid <= MAX_GRID`.
    pub unsafe fn run(&mut self, job: Job) {
        let parts = job.grid.div_ceil_positive(job.part);
        let shared = &*self.shared;
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: the state is closed and empty here, so no worker reads the job.
        unsafe { *shared.job.get() = Some(job) };
        let number = (shared.state.load(Ordering::Relaxed) / NUMBER).wrapping_add(1);
        shared.state.store(number.wrapping_mul(NUMBER), Ordering::SeqCst);
        for (asleep, handle) in shared.asleep.iter().zip(&self.handles).take(parts as usize - 1) {
            if asleep.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        // SAFETY: the caller promised.
        unsafe { parts_of(shared, &job, 0) };
        shared.state.fetch_or(CLOSED, Ordering::Relaxed);
        let mut spins = 0;
        while shared.state.load(Ordering::Acquire) & (CLOSED - 1) != 0 {
            pause(&mut spins);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

trait DivCeil {
    fn div_ceil_positive(self, by: Self) -> Self;
}

impl DivCeil for i64 {
    /// Quotient of two positive numbers, rounded up.
    fn div_ceil_positive(self, by: i64) -> i64 {
        (self - 1) / by + 1
    }
}

/// Waits a moment; gives the CPU away when it has been long.
fn pause(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(SPINS) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Does parts until none are left.
///
/// # Safety
/// As for `Pool::run`.
unsafe fn parts_of(shared: &Shared, job: &Job, thread: usize) {
    loop {
        let begin = shared.next.fetch_add(job.part, Ordering::Relaxed);
        // Every thread pushes the counter one part past the grid at most: with `MAX_GRID` and `MAX_THREADS` it cannot wrap.
        if begin >= job.grid {
            return;
        }
        let end = begin.saturating_add(job.part).min(job.grid);
        // SAFETY: the caller of `run` promised that parts may run, and scratch reaches to the last thread's.
        unsafe { (job.kernel)(job.args, job.dims, job.scratch.add(thread * job.scratch_stride), begin, end) }
    }
}

fn work(shared: &Shared, index: usize) {
    let state = shared.state.load(Ordering::Acquire);
    // The first job may already be open: take part in it.
    let mut done = if state & CLOSED == 0 { (state / NUMBER).wrapping_sub(1) } else { state / NUMBER };
    let mut spins = 0;
    loop {
        let state = shared.state.load(Ordering::Acquire);
        let fresh = state / NUMBER != done && state & CLOSED == 0;
        if fresh {
            if shared.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                // SAFETY: joined, so the job is complete and stays until this thread leaves.
                let job = unsafe { *shared.job.get() };
                if let Some(job) = job {
                    // SAFETY: `Pool::run`'s caller promised; this thread's number is below the pool's count.
                    unsafe { parts_of(shared, &job, index + 1) };
                }
                done = state / NUMBER;
                shared.state.fetch_sub(1, Ordering::Release);
                spins = 0;
            }
            continue;
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
            continue;
        }
        spins = 0;
        let asleep = &shared.asleep[index];
        asleep.store(true, Ordering::SeqCst);
        let state = shared.state.load(Ordering::SeqCst);
        if (state / NUMBER == done || state & CLOSED != 0) && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds 1 to every element of its part, through the ABI.
    unsafe extern "C" fn increment(args: *const *mut u8, _: *const i64, scratch: *mut u8, begin: i64, end: i64) {
        // SAFETY: the test passes one argument with as many elements as the grid has points, and scratch for each thread.
        unsafe {
            *scratch.cast::<u64>() += (end - begin) as u64;
            let data = (*args).cast::<u32>();
            (begin..end).for_each(|i| *data.add(i as usize) += 1);
        }
    }

    #[test]
    fn every_part_is_done_once_whatever_the_threads() {
        for threads in 1..5 {
            let mut pool = Pool::new(threads);
            let mut data = vec![0u32; 1000];
            let mut scratch = vec![0u64; 8 * threads];
            let mut points = 0;
            for round in 0..2000 {
                let grid = 1 + round % 1000;
                let args = [data.as_mut_ptr().cast::<u8>()];
                let (args, scratch) = (args.as_ptr(), scratch.as_mut_ptr().cast());
                let job =
                    Job { kernel: increment, args, dims: std::ptr::null(), scratch, scratch_stride: 64, grid, part: 7 };
                // SAFETY: the data has 1000 elements and every thread its scratch line.
                unsafe { pool.run(job) };
                points += grid as u64;
                if round % 500 == 0 {
                    thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            assert_eq!(data.iter().map(|&d| u64::from(d)).sum::<u64>(), points);
            assert_eq!(scratch.iter().sum::<u64>(), points);
            assert_eq!(data[0], 2000);
        }
    }
}
