//! What a long run listens to and reports to.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tersor_ir::Result;
use tersor_runtime::limits::Limits;

/// What is told while a run goes on.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step begins, such as `import`.
    Begin(String),
    /// A step is done.
    Done(StepLine),
    /// A fact about the step, of interest from this level of `-v` on.
    Detail(u8, String),
}

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

/// The limits of a run, and who hears of its events.
pub struct Watch<'a> {
    limits: Limits,
    tell: &'a dyn Fn(Event),
}

impl Default for Watch<'_> {
    /// No limits, nobody listens.
    fn default() -> Self {
        Watch::new(&Limits::default())
    }
}

impl<'a> Watch<'a> {
    /// With limits; nobody listens.
    pub fn new(limits: &Limits) -> Watch<'a> {
        Watch { limits: limits.clone(), tell: &|_| {} }
    }
    /// Tells events to `tell`.
    pub fn telling(self, tell: &'a dyn Fn(Event)) -> Watch<'a> {
        Watch { tell, ..self }
    }
    /// The flag that is raised when the run is to end.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        self.limits.stop()
    }
    /// The most memory that may be taken.
    pub fn max_memory(&self) -> Option<u64> {
        self.limits.max_memory()
    }
    /// Starts a step.
    pub fn begin(&self, name: &str) -> Result<Instant> {
        self.check()?;
        (self.tell)(Event::Begin(name.into()));
        Ok(Instant::now())
    }
    /// Ends a step that began at `start`.
    pub fn done(&self, name: &str, text: impl Into<String>, start: Instant) {
        self.done_in(name, text, start.elapsed());
    }
    /// Ends a step that took `time`.
    pub fn done_in(&self, name: &str, text: impl Into<String>, time: Duration) {
        (self.tell)(Event::Done(StepLine { name: name.into(), text: text.into(), time }));
    }
    /// Tells a fact.
    pub fn detail(&self, level: u8, text: impl Into<String>) {
        (self.tell)(Event::Detail(level, text.into()));
    }
    /// An error once the run is to end.
    pub fn check(&self) -> Result<()> {
        self.limits.check().map_err(super::runtime_error)
    }
}
