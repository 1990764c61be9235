//! Worker processes: each takes folders of cases on its standard input and answers with one verdict a line.

use super::{Case, Status, Verdict};
use crate::driver::{Result, Watch};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tersor_ir::{Diagnostic, Failure};

/// How often a worker that is waited for is left, to see whether the run is to end.
const PERIOD: Duration = Duration::from_millis(100);

/// How to start workers, and what they may take.
pub struct Worker<'a> {
    /// The program.
    pub program: &'a Path,
    /// Arguments that make it a worker.
    pub arguments: &'a [String],
    /// How many work at once.
    pub count: usize,
    /// Time for one case.
    pub timeout: Duration,
}

/// Checks all cases; `done` hears of each as it ends. The verdicts are in the order of the cases.
pub fn run_all(
    cases: &[Case],
    worker: &Worker,
    watch: &Watch,
    done: &mut dyn FnMut(&Case, &Verdict),
) -> Result<Vec<Verdict>> {
    let (next, stop) = (AtomicUsize::new(0), watch.stop());
    let mut verdicts: Vec<Option<Verdict>> = vec![None; cases.len()];
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        for _ in 0..worker.count.clamp(1, cases.len().max(1)) {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                let mut process = None;
                let ended = || stop.load(Ordering::Relaxed);
                let turns = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                let mine = turns.map_while(|i| Some((i, cases.get(i)?)));
                for (i, case) in mine.take_while(|_| !ended()) {
                    if tell.send((i, one(&case.dir, worker, &mut process, &ended))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        for (i, verdict) in told {
            watch.check().map_err(|d| vec![d])?;
            let verdict = verdict.map_err(|d| vec![d])?;
            done(&cases[i], &verdict);
            verdicts[i] = Some(verdict);
        }
        watch.check().map_err(|d| vec![d])
    })?;
    Ok(verdicts.into_iter().flatten().collect())
}

/// The verdict of one case by the process in `slot`, which is started where there is none, and ended where it did not answer.
fn one(
    dir: &Path,
    worker: &Worker,
    slot: &mut Option<Process>,
    ended: &dyn Fn() -> bool,
) -> tersor_ir::Result<Verdict> {
    let failed = |e: std::io::Error| {
        Diagnostic::error("C0703", format!("cannot start a worker process: {e}")).failure(Failure::File)
    };
    let mut process = match slot.take() {
        Some(p) => p,
        None => Process::start(worker).map_err(failed)?,
    };
    match process.ask(dir, worker.timeout, ended) {
        Ok(verdict) => {
            *slot = Some(process);
            Ok(verdict)
        }
        Err(why) => Ok(Verdict::new(Status::Crashed, process.end(&why))),
    }
}

/// Why there is no answer.
enum Silence {
    /// It took too long, or is no longer of interest.
    Late(Duration),
    /// The process is gone.
    Gone,
}

struct Process {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    errors: File,
}

impl Process {
    fn start(worker: &Worker) -> std::io::Result<Process> {
        let errors = tempfile::tempfile()?;
        let mut child = Command::new(worker.program)
            .args(worker.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()?;
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines.map_while(std::result::Result::ok).try_for_each(|l| tell.send(l))
        });
        Ok(Process { child, input, answers, errors })
    }

    fn ask(
        &mut self,
        dir: &Path,
        timeout: Duration,
        ended: &dyn Fn() -> bool,
    ) -> std::result::Result<Verdict, Silence> {
        let mut question = serde_json::to_vec(dir).map_err(|_| Silence::Gone)?;
        question.push(b'\n');
        self.input.write_all(&question).and_then(|()| self.input.flush()).map_err(|_| Silence::Gone)?;
        let start = Instant::now();
        while start.elapsed() < timeout && !ended() {
            match self.answers.recv_timeout(PERIOD) {
                Ok(line) => return serde_json::from_str(&line).map_err(|_| Silence::Gone),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Gone),
            }
        }
        Err(Silence::Late(timeout))
    }

    /// Ends the process, and says in words why there was no answer.
    fn end(mut self, why: &Silence) -> String {
        if let Silence::Late(timeout) = why {
            // It may have ended by itself meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
            return format!("no answer within {} s", timeout.as_secs_f64());
        }
        drop(self.input);
        let status = self.child.wait().map_or_else(|e| e.to_string(), in_words);
        match last_line(&mut self.errors) {
            Some(line) => format!("{status}: {line}"),
            None => status,
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("ended by signal {signal}");
    }
    format!("ended with status {}", status.code().unwrap_or(-1))
}

/// The last line of what a process said before it ended; of much text only the end is looked at.
fn last_line(file: &mut File) -> Option<String> {
    const MOST: u64 = 4096;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST))).ok()?;
    let mut bytes = vec![];
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    lines.rfind(|l| !l.starts_with("help")).map(str::to_string)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn silence_is_a_crash_of_one_case() {
        let case = |name: &str| Case { name: name.into(), dir: PathBuf::from(name), operator: "Relu".into() };
        let script = r#"while read line; do case "$line" in
            *signal*) echo "last words" >&2; echo "help none" >&2; kill -SEGV $$;;
            *exit*) exit 7;;
            *hang*) sleep 60;;
            *) echo '{"status":"passed","reason":null,"rel_l2":0.5,"max_abs":null}';;
        esac; done"#;
        let arguments = ["-c".to_string(), script.to_string()];
        let timeout = Duration::from_millis(700);
        let worker = Worker { program: Path::new("/bin/sh"), arguments: &arguments, count: 2, timeout };
        let cases = ["a", "signal", "b", "exit", "hang", "c"].map(case);
        let mut heard = 0;
        let verdicts = run_all(&cases, &worker, &Watch::default(), &mut |_, _| heard += 1).unwrap();
        let reasons: Vec<&str> = verdicts.iter().map(|v| v.reason.as_deref().unwrap_or("passed")).collect();
        let late = "no answer within 0.7 s";
        assert_eq!(
            reasons,
            ["passed", "ended by signal 11: last words", "passed", "ended with status 7", late, "passed"]
        );
        assert_eq!((heard, verdicts[0].rel_l2), (6, Some(0.5)));
        let nowhere = Worker { program: Path::new("/nowhere"), ..worker };
        assert_eq!(run_all(&cases, &nowhere, &Watch::default(), &mut |_, _| {}).unwrap_err()[0].code, "C0703");
    }
}
