//! Limits of time and memory, interruption, and the reports of steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tersor_ir::{Diagnostic, Failure, Result};

/// A finished step, as people see it.
#[derive(Clone, Debug)]
pub struct StepLine {
    /// Name, such as `import`.
    pub name: String,
    /// What came of it.
    pub text: String,
    /// How long it took.
    pub time: Duration,
}

/// What a long run listens to and reports to.
pub struct Watch<'a> {
    /// Set when the run is to end, for whatever reason.
    pub stop: Arc<AtomicBool>,
    /// Set by a signal.
    pub signal: Arc<AtomicBool>,
    deadline: Option<(Instant, Duration)>,
    max_memory: Option<u64>,
    begin: &'a dyn Fn(&str),
    done: &'a dyn Fn(&StepLine),
}

impl Default for Watch<'_> {
    fn default() -> Self {
        Watch::new(Arc::default(), None, None, &|_| {}, &|_| {})
    }
}

impl<'a> Watch<'a> {
    /// `signal` ends the run from outside; `begin` and `done` hear of steps.
    pub fn new(
        signal: Arc<AtomicBool>,
        timeout: Option<Duration>,
        max_memory: Option<u64>,
        begin: &'a dyn Fn(&str),
        done: &'a dyn Fn(&StepLine),
    ) -> Watch<'a> {
        let deadline = timeout.map(|t| (Instant::now() + t, t));
        let stop = Arc::new(AtomicBool::new(false));
        let (weak, seen) = (Arc::downgrade(&stop), signal.clone());
        // Passes look at one flag only: this thread raises it for every reason. It ends with the watch.
        std::thread::spawn(move || {
            while let Some(stop) = weak.upgrade() {
                let late = deadline.is_some_and(|d| Instant::now() >= d.0);
                let large = max_memory.is_some_and(|m| anonymous_memory() > m);
                if late || large || seen.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                drop(stop);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Watch { stop, signal, deadline, max_memory, begin, done }
    }
    /// Starts a step.
    pub fn begin(&self, name: &str) -> Result<Instant> {
        self.check()?;
        (self.begin)(name);
        Ok(Instant::now())
    }
    /// Ends a step that began at `start`.
    pub fn done(&self, name: &str, text: impl Into<String>, start: Instant) {
        self.done_in(name, text, start.elapsed());
    }
    /// Ends a step that took `time`.
    pub fn done_in(&self, name: &str, text: impl Into<String>, time: Duration) {
        (self.done)(&StepLine { name: name.into(), text: text.into(), time });
    }
    /// An error once the run is to end.
    pub fn check(&self) -> Result<()> {
        if self.signal.load(Ordering::Relaxed) {
            return Err(Diagnostic::error("C0401", "interrupted").failure(Failure::Interrupted));
        }
        if let Some((_, t)) = self.deadline.filter(|d| Instant::now() >= d.0) {
            let message = format!("the time limit of {:.0} s is reached", t.as_secs_f64());
            return Err(Diagnostic::error("C0402", message).failure(Failure::Limit).with_help("raise --timeout"));
        }
        if let Some(m) = self.max_memory
            && (self.stop.load(Ordering::Relaxed) || anonymous_memory() > m)
        {
            let message = format!("the memory limit of {} is reached", tersor_runtime::cli::bytes(m));
            return Err(Diagnostic::error("C0403", message).failure(Failure::Limit).with_help("raise --max-memory"));
        }
        Ok(())
    }
    /// Findings of a part that only knows that it was told to stop: the reason stands in for `interrupted`.
    pub fn explain(&self, mut errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
        for d in errors.iter_mut().filter(|d| d.failure == Failure::Interrupted) {
            if let Err(reason) = self.check() {
                *d = reason;
            }
        }
        errors
    }
}

/// A line of `/proc/self/status`, in bytes; 0 where there is no such file.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kb| kb << 10)
}

/// Memory that is not a mapped file.
fn anonymous_memory() -> u64 {
    status("RssAnon") + status("RssShmem")
}

/// The most memory that this process has had resident.
pub fn peak_memory() -> u64 {
    status("VmHWM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart() {
        let reason = |timeout, memory, signal: bool| {
            let w = Watch::new(Arc::new(AtomicBool::new(signal)), timeout, memory, &|_| {}, &|_| {});
            std::thread::sleep(Duration::from_millis(60));
            assert!(w.stop.load(Ordering::Relaxed));
            let d = Diagnostic::error("S0102", "interrupted").failure(Failure::Interrupted);
            w.explain(vec![d]).remove(0).failure
        };
        assert_eq!(reason(Some(Duration::ZERO), None, false), Failure::Limit);
        assert_eq!(reason(None, Some(1), false), Failure::Limit);
        assert_eq!(reason(None, None, true), Failure::Interrupted);
        assert!(Watch::default().check().is_ok());
    }
}
