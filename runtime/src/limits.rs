//! What ends a run early: signals, a limit of time, a limit of memory.
//!
//! One flag says "end now" for whatever reason. Long work looks at it between two parts and gives up with [`Kind::Interrupted`]; whoever started
//! the work has the reason from [`Limits::check`]. What has not ended a [`GRACE`] later is ended from outside, wherever it is.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

/// How long work may take to end by itself once it is told to.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often the reasons are looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// Signals that asked this process to end.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Ends the process with a reason.
type End = Box<dyn FnOnce(Error) + Send>;

/// The limits of one run. They count from when they are made; clones share them.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    stop: Arc<AtomicBool>,
    reason: OnceLock<Error>,
    signals: bool,
    deadline: Option<(Instant, Duration)>,
    max_memory: Option<u64>,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Limits {
        Limits::new(None, None)
    }
}

impl Limits {
    /// Limits that the work must look at itself.
    pub fn new(timeout: Option<Duration>, max_memory: Option<u64>) -> Limits {
        Limits::start(false, timeout, max_memory, None)
    }

    /// Limits of this process: SIGINT and SIGTERM end it too. `end` is called when the work does not end in time, or at a second signal, and must
    /// not return.
    pub fn of_process(
        timeout: Option<Duration>,
        max_memory: Option<u64>,
        end: impl FnOnce(Error) + Send + 'static,
    ) -> Limits {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the handler adds to an atomic number and does nothing else.
            unsafe { libc::signal(signal, count as *const () as libc::sighandler_t) };
        }
        Limits::start(true, timeout, max_memory, Some(Box::new(end)))
    }

    fn start(signals: bool, timeout: Option<Duration>, max_memory: Option<u64>, end: Option<End>) -> Limits {
        let deadline = timeout.map(|t| (Instant::now() + t, t));
        let shared = Arc::new(Shared { stop: Arc::default(), reason: OnceLock::new(), signals, deadline, max_memory });
        if signals || timeout.is_some() || max_memory.is_some() {
            let weak = Arc::downgrade(&shared);
            std::thread::spawn(move || look(&weak, end));
        }
        Limits(shared)
    }

    /// The flag that is raised when the run is to end.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.0.stop
    }

    /// The most memory that may be taken.
    pub fn max_memory(&self) -> Option<u64> {
        self.0.max_memory
    }

    /// An error once the run is to end; the first reason stays the reason.
    pub fn check(&self) -> Result<()> {
        self.0.look()
    }

    /// The reason instead of a part's remark that it was told to end.
    pub fn explain(&self, e: Error) -> Error {
        let reason = if e.kind == Kind::Interrupted { self.check().err() } else { None };
        reason.unwrap_or(e)
    }
}

impl Shared {
    fn look(&self) -> Result<()> {
        if let Some(e) = self.reason.get().cloned().or_else(|| self.find()) {
            self.stop.store(true, Ordering::Relaxed);
            return Err(self.reason.get_or_init(|| e).clone());
        }
        Ok(())
    }

    fn find(&self) -> Option<Error> {
        if self.signals && SIGNALS.load(Ordering::Relaxed) > 0 {
            return Some(interrupted());
        }
        if let Some((_, t)) = self.deadline.filter(|d| Instant::now() >= d.0) {
            let what = format!("the time limit of {} s is reached", t.as_secs_f64());
            return Some(Error::new(Kind::TimeLimit, what).with_help("raise --timeout"));
        }
        let most = self.max_memory.filter(|&m| anonymous_memory() > m)?;
        let what = format!("the memory limit of {} is reached", crate::cli::bytes(most));
        Some(Error::new(Kind::MemoryLimit, what).with_help("raise --max-memory"))
    }
}

/// What work says that was told to end.
pub fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}

/// Looks until the limits are gone.
fn look(limits: &Weak<Shared>, mut end: Option<End>) {
    let mut since = None;
    while let Some(shared) = limits.upgrade() {
        if let Err(reason) = shared.look() {
            let late = since.get_or_insert_with(Instant::now).elapsed() >= GRACE;
            let again = shared.signals && SIGNALS.load(Ordering::Relaxed) > 1;
            if let Some(end) = end.take_if(|_| late || again) {
                end(reason);
            }
        }
        drop(shared);
        std::thread::sleep(PERIOD);
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
    fn reasons_are_told_apart_and_stay() {
        let reason = |timeout, memory| {
            let limits = Limits::new(timeout, memory);
            std::thread::sleep(4 * PERIOD);
            assert!(limits.stop().load(Ordering::Relaxed));
            assert_eq!(limits.check(), limits.check());
            limits.explain(interrupted()).kind
        };
        assert_eq!(reason(Some(Duration::ZERO), None), Kind::TimeLimit);
        assert_eq!(reason(None, Some(1)), Kind::MemoryLimit);
        assert_eq!(Limits::default().check(), Ok(()));
        assert_eq!(Limits::default().explain(interrupted()), interrupted());
    }

    #[test]
    fn work_that_does_not_end_is_ended() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let end: End = Box::new(move |e| sender.send(e).unwrap());
        let limits = Limits::start(false, Some(Duration::ZERO), None, Some(end));
        let before = Instant::now();
        assert_eq!(receiver.recv().map(|e| e.kind), Ok(Kind::TimeLimit));
        assert!(before.elapsed() >= GRACE / 2);
        drop(limits);
    }
}
