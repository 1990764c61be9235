//! `opt`: passes over a module, and the module they leave.

use super::report::Reporter;
use super::shared::{BuildArgs, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Form, Offering, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor opt model.onnx -p 'normalize,quantize{acts=none}' -o small.tir
  tersor opt model.onnx -p int8-dynamic -o small.onnx")]
pub struct Args {
    #[command(flatten)]
    pub build: BuildArgs,
    /// What to write: NAME.tir, the IR with its weights in NAME.tirw, or NAME.onnx; where nothing or - is named, the IR to standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub globals: Globals,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let out = args.out.as_deref().filter(|o| o.as_os_str() != "-");
    let form = match out.map(|o| o.extension().and_then(|e| e.to_str())) {
        None | Some(Some("tir")) => Form::Tir,
        Some(Some("onnx")) => Form::Onnx,
        Some(_) => {
            let name = args.out.as_deref().unwrap_or(Path::new("")).display();
            let d = usage(format!("{name}: IR is written to a .tir file, a model to an .onnx file"));
            return Err(vec![d.with_help("`tersor compile` writes other forms")]);
        }
    };
    write(&args.build, form, out, None, reporter)
}

/// Runs the passes, or goes on with what they offered, and writes what they leave in some form; IR goes to the text where no file is named.
pub fn write(
    build: &BuildArgs,
    form: Form,
    out: Option<&Path>,
    offering: Option<Offering>,
    reporter: &Reporter,
) -> Result<Outcome> {
    let pipeline = build.pipeline.or("lossless")?;
    let model = build.model(&pipeline)?;
    let options = match form {
        Form::Tir | Form::Onnx => build.optimize(&pipeline)?,
        Form::Kernels(_) => build.for_one_target(&pipeline)?.optimize(&pipeline)?,
    };
    let files: Vec<PathBuf> = out.into_iter().flat_map(|o| form.files(o)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    build.check_outputs(&pipeline, &files)?;
    if reporter.dry_run() {
        return build.dry_run(&pipeline, &files);
    }
    reporter.watch(|watch| {
        let (done, mut diagnostics) = match offering {
            Some(offering) => (driver::decide(offering, &pipeline, &options, watch)?, vec![]),
            None => {
                let loaded = driver::load_watched(&model, &build.import(&pipeline)?, watch)?;
                (driver::optimize(loaded.module, &pipeline, &options, watch)?, loaded.notes)
            }
        };
        let (mut text, mut steps) = (String::new(), vec![]);
        for s in &done.steps {
            if let Some(t) = &s.text {
                text.push_str(&format!("// after {}\n{t}", s.pass));
            }
            let counts: serde_json::Map<_, _> = s.counts.iter().map(|(n, v)| (n.to_string(), json!(v))).collect();
            let decisions: Vec<String> = s.decisions.iter().map(|d| d.to_string()).collect();
            steps.push(
                json!({ "pass": s.pass, "ms": s.time.as_secs_f64() * 1e3, "counts": counts, "decisions": decisions }),
            );
        }
        diagnostics.extend(done.warnings());
        let mut data = json!({ "steps": steps, "output": out });
        match out {
            Some(path) => {
                diagnostics.extend(driver::emit(&done.module, form, options.isa, path, watch)?);
                text += &format!(
                    "wrote {}\n",
                    files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
                );
            }
            None => {
                let tir = tersor_ir::text::print(&done.module);
                text.push_str(&tir);
                data["tir"] = json!(tir);
            }
        }
        Ok(Outcome { data, text, diagnostics, ..Outcome::default() })
    })
}
