//! `export`: a module as an ONNX model for other runtimes.

use super::report::Reporter;
use super::shared::{ShapeArgs, load_model, stdout_is_free, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Result};
use serde_json::json;
use std::path::PathBuf;
use tersor_frontend::ExportForm;
use tersor_runtime::cli::limits::parse_size;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Encoded weights are written as DequantizeLinear where ONNX has their form, and as floats elsewhere, which is said.

Examples:
  tersor export model.tir -o model.int4.onnx
  tersor export model.tir -o model.f32.onnx --form plain
  tersor export model.tir -o model.int4.onnx --form nbits
  tersor export model.tir -o model.int8.onnx --form qoperator"
)]
pub struct Args {
    /// An ONNX model or .tir file.
    pub model: PathBuf,
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
    if to_stdout {
        stdout_is_free(reporter)?;
    } else {
        driver::check_output(&args.output, &[&args.model])?;
    }
    let mut diagnostics = vec![];
    let loaded = load_model(&args.model, &args.shapes, &mut diagnostics)?;
    let form = match args.form {
        Form::Plain => ExportForm::Plain,
        Form::Qdq => ExportForm::Qdq,
        Form::Qoperator => ExportForm::QOperator,
        Form::Nbits => ExportForm::NBits,
    };
    let (written, data) = driver::export(&loaded.module, form, &args.output, args.external_data)?;
    diagnostics.extend(written.notes.iter().cloned());
    if to_stdout && data.is_some() {
        let d = usage("the model's weights need a file of their own, which standard output has no room for");
        return Err(vec![d.with_help("name a file with -o")]);
    }
    data.iter().try_for_each(|d| driver::check_output(d, &[&args.model]))?;
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
