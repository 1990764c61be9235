//! `export`: a module as an ONNX model for other runtimes.

use super::report::Reporter;
use super::shared::{ShapeArgs, load_model, usage};
use super::{Globals, Outcome};
use crate::driver::{self, Result};
use serde_json::json;
use std::path::PathBuf;
use tersor_frontend::{ExportForm, ExportOptions};
use tersor_runtime::cli::limits::parse_size;

/// Bytes of weights from which they go to a file of their own where nothing is said: a model file may have 2 GiB.
const INLINE: usize = 1 << 30;
/// Bytes of a tensor from which it goes to that file then.
const LARGE: usize = 1 << 10;

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
    /// The ONNX file to write.
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
    if args.output.extension().is_none_or(|e| e != "onnx") {
        let d = usage(format!("{}: models are exported to an .onnx file", args.output.display()));
        return Err(vec![d.with_help("`tersor compile` writes other forms")]);
    }
    let mut data = args.output.clone().into_os_string();
    data.push(".data");
    let data = PathBuf::from(data);
    driver::check_output(&args.output, &[&args.model])?;
    driver::check_output(&data, &[&args.model])?;
    let mut diagnostics = vec![];
    let loaded = load_model(&args.model, &args.shapes, &mut diagnostics)?;
    let inline = args.external_data.is_none() && loaded.module.constant_bytes() <= INLINE;
    let least = args.external_data.map_or(LARGE, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let form = match args.form {
        Form::Plain => ExportForm::Plain,
        Form::Qdq => ExportForm::Qdq,
        Form::Qoperator => ExportForm::QOperator,
        Form::Nbits => ExportForm::NBits,
    };
    let options = ExportOptions { form, external: (!inline).then_some((name, least)) };
    let written = tersor_frontend::export(&loaded.module, &options)?;
    diagnostics.extend(written.notes.iter().cloned());
    let files: Vec<String> = [Some(&args.output), written.has_data().then_some(&data)]
        .into_iter()
        .flatten()
        .map(|p| p.display().to_string())
        .collect();
    if !reporter.dry_run() {
        if written.has_data() {
            driver::write_file(&data, |out| written.write_data(out))?;
        }
        driver::write_file(&args.output, |out| std::io::Write::write_all(out, &written.model))?;
    }
    let text = if reporter.dry_run() { String::new() } else { format!("wrote {}\n", files.join(", ")) };
    let data = json!({ "output": args.output, "files": files, "bytes": written.model.len() });
    Ok(Outcome { data, text, diagnostics, exit: 0 })
}
