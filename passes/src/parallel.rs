//! Independent pieces of work on several threads.

use std::sync::Mutex;

/// Something to do, once.
pub type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does all jobs, on so many threads, the caller's included; they start in order. Each writes what no other touches, so that results do not depend on
/// the threads.
pub fn run(threads: usize, jobs: Vec<Job>) {
    let threads = threads.min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    let work = || {
        while let Some(job) = next() {
            job();
        }
    };
    std::thread::scope(|s| {
        (1..threads).for_each(|_| drop(s.spawn(work)));
        work();
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_job_is_done_once() {
        for threads in 0..5 {
            let mut done = [0u8; 100];
            super::run(threads, done.iter_mut().map(|d| Box::new(move || *d += 1) as super::Job).collect());
            assert_eq!(done, [1; 100]);
        }
    }
}
