//! `export`: a module as an ONNX model for other runtimes.

use super::report::Reporter;
use super::shared::{BuildArgs, CalibArgs, ShapeArgs, load_model, no_effect, stdout_is_free, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Lock, Result, Source};
use serde_json::json;
use std::path::{Path, PathBuf};
use tersor_frontend::ExportForm;
use tersor_ir::text::diff::diff;
use tersor_ir::{Diagnostic, Failure, Module};
use tersor_runtime::cli::limits::parse_size;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Encoded weights are written as DequantizeLinear where ONNX has their form, and as floats elsewhere, which is said.

Examples:
  tersor export model.tir -o model.int4.onnx
  tersor export model.tir -o model.f32.onnx --form plain
  tersor export model.tir -o model.int4.onnx --form nbits
  tersor export model.tir -o model.int8.onnx --form qoperator
  tersor export model.tsr --from model.onnx --calib data/ -o model.int8.onnx"
)]
pub struct Args {
    /// An ONNX model, a .tir file, or an artifact with its lock.
    pub model: PathBuf,
    /// The model that an artifact was made from: an artifact has its weights as kernels take them, and they are made again as its lock says.
    #[arg(long, value_name = "MODEL")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub calib: CalibArgs,
    /// The ONNX file to write; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What codes become, where the form can say it.
    #[arg(long, value_enum, default_value_t)]
    pub form: Form,
    /// Put tensors of at least this size into NAME.onnx.data; where nothing is said, large ones of models over 1 GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub external_data: Option<u64>,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub globals: Globals,
}

/// What codes become.
#[derive(Copy, Clone, Default, Debug, clap::ValueEnum)]
pub enum Form {
    /// Floats.
    Plain,
    /// Codes and DequantizeLinear, around products of floats.
    #[default]
    Qdq,
    /// Operators on codes: QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger; qdq for weights alone.
    Qoperator,
    /// MatMulNBits of ONNX Runtime for products with weights in blocks, and qdq elsewhere.
    Nbits,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout && args.output.extension().is_none_or(|e| e != "onnx") {
        let d = usage(format!("{}: models are exported to an .onnx file", args.output.display()));
        return Err(vec![d.with_help("`tersor compile` writes other forms")]);
    }
    let read = [Some(&args.model), args.from.as_ref(), args.calib.calib.as_ref()];
    let read: Vec<&Path> = read.into_iter().flatten().map(PathBuf::as_path).collect();
    if to_stdout {
        stdout_is_free(reporter)?;
    } else {
        driver::check_output(&args.output, &read)?;
    }
    let mut diagnostics = vec![];
    let loaded = load_model(&args.model, &args.shapes, reporter.limits(), &mut diagnostics)?;
    let module = match loaded.source {
        Source::Artifact => remade(args, &loaded.module, reporter)?,
        _ => {
            let given = [("--from", args.from.is_some()), ("--calib", args.calib.calib.is_some())];
            let idle = given.into_iter().filter(|g| g.1);
            diagnostics
                .extend(idle.map(|(option, _)| no_effect(option, "only the weights of artifacts are made again")));
            loaded.module
        }
    };
    let form = match args.form {
        Form::Plain => ExportForm::Plain,
        Form::Qdq => ExportForm::Qdq,
        Form::Qoperator => ExportForm::QOperator,
        Form::Nbits => ExportForm::NBits,
    };
    let (written, data) = driver::export(&module, form, &args.output, args.external_data)?;
    diagnostics.extend(written.notes.iter().cloned());
    if to_stdout && data.is_some() {
        let d = usage("the model's weights need a file of their own, which standard output has no room for");
        return Err(vec![d.with_help("name a file with -o")]);
    }
    data.iter().try_for_each(|d| driver::check_output(d, &read))?;
    let files: Vec<String> =
        [Some(&args.output), data.as_ref()].into_iter().flatten().map(|p| p.display().to_string()).collect();
    let document = json!({ "output": args.output, "files": files, "bytes": written.model.len() });
    let mut out = Outcome { data: document, diagnostics, ..Outcome::default() };
    if reporter.dry_run() {
        return Ok(out);
    }
    if to_stdout {
        out.bytes = Some(written.model);
    } else {
        driver::write_onnx(&written, &args.output, data.as_deref())?;
        out.text = format!("wrote {}\n", files.join(", "));
    }
    Ok(out)
}

/// The module of an artifact with its weights, made again from the model and the data that its lock names.
fn remade(args: &Args, artifact: &Module, reporter: &Reporter) -> Result<Module> {
    let shown = args.model.display();
    let Some(from) = &args.from else {
        let d = usage(format!("{shown} has its weights as its kernels take them"));
        let help =
            "name the model that it was made from, --from MODEL, and its calibration data if it has any, --calib DATA";
        return Err(vec![d.with_help(help)]);
    };
    let lock = Lock::read(&driver::lock_path(&args.model))?;
    let given = BuildArgs { model: Some(from.clone()), calib: args.calib.clone(), ..BuildArgs::default() };
    let build = given.locked(&lock);
    let pipeline = build.pipeline.or("lossless")?;
    let (import, options) = (build.import(&pipeline)?, build.optimize(&pipeline)?);
    let module = reporter.watch(|watch| -> Result<Module> {
        let loaded = driver::load_watched(from, &import, watch)?;
        let data = options.samples.as_ref().map(|s| s.digest()).transpose()?;
        lock.agrees(&driver::source_hash(&loaded)?, data.as_deref())?;
        Ok(driver::optimize(loaded.module, &pipeline, &options, watch)?.module)
    })?;
    if diff(artifact, &module).is_empty() {
        return Ok(module);
    }
    let d = Diagnostic::error("C0311", format!("what {shown} holds is not what its lock says"));
    Err(vec![d.failure(Failure::Gate).with_help("compile the model again")])
}
