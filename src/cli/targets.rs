//! `targets`: what code can be made for, and what this machine is.

use super::report::Reporter;
use super::{Globals, Outcome};
use crate::driver::Result;
use serde_json::json;
use std::fmt::Write;
use tersor_backends::target::{self, MACHINES};
use tersor_runtime::cpu::Features;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Say what this machine is, feature by feature.
    #[arg(long)]
    pub detect: bool,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, _: &Reporter) -> Result<Outcome> {
    let cpu = Features::detect();
    let native = target::detect(&cpu).map(|m| m.isa);
    let (mut text, mut rows) = (String::new(), vec![]);
    for m in &MACHINES {
        let missing = m.missing(&cpu);
        let here = match &missing[..] {
            [] if native == Some(m.isa) => "native".to_string(),
            [] => "runs here".into(),
            some => format!("this CPU lacks {}", some.join(", ")),
        };
        let _ = writeln!(text, "{:<16} {:<14} {here}", m.isa.name(), m.aliases.join(", "));
        rows.push(json!({ "name": m.isa.name(), "aliases": m.aliases, "missing": missing }));
    }
    if args.detect {
        let _ = writeln!(text, "features  {}", cpu.names().join(" "));
    }
    let data = json!({
        "targets": rows,
        "native": native.map(|i| i.name()),
        "features": if args.detect { json!(cpu.names()) } else { json!(null) },
        "codegen": cfg!(feature = "mlir"),
    });
    Ok(Outcome { data, text, ..Outcome::default() })
}
