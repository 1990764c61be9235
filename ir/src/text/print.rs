//! Module to text.

use crate::constant::{ConstData, Constant, Distribution};
use crate::loc::Loc;
use crate::module::{Func, Module, NodeId, RegionId, ValueId};
use crate::ops::Op;
use crate::string;
use crate::tensor::Tensor;
use crate::text::{quote, quote_name};
use crate::types::DType;
use std::fmt::Write;
use std::sync::Arc;

/// What to show beside the module itself.
#[derive(Copy, Clone, Debug)]
pub struct PrintOptions {
    /// Statistics of constants, as comments.
    pub statistics: bool,
    /// Locations, as comments.
    pub locations: bool,
}

impl Default for PrintOptions {
    fn default() -> Self {
        PrintOptions { statistics: true, locations: false }
    }
}

/// The module as `.tir` text.
pub fn print(m: &Module) -> String {
    print_with(m, PrintOptions::default())
}

/// The module as `.tir` text, with options.
pub fn print_with(m: &Module, options: PrintOptions) -> String {
    let mut out = String::new();
    for p in &m.pipeline {
        let _ = writeln!(out, "// pipeline: {p}");
    }
    let _ = writeln!(out, "module @{} {{", quote_name(&m.name));
    for (name, s) in &m.symbols {
        let _ = writeln!(out, "  symbol {name} {}..{} hint {}", s.min, s.max, s.hint);
    }
    let live: Vec<_> = m.funcs.values().flat_map(Func::live_constants).collect();
    let mut seen = std::collections::HashSet::new();
    for c in live.into_iter().filter(|c| seen.insert(*c)) {
        print_const(&mut out, &m.consts[c], options);
    }
    for f in m.funcs.values() {
        print_func(&mut out, f, options);
    }
    out.push_str("}\n");
    out
}

fn print_const(out: &mut String, c: &Constant, options: PrintOptions) {
    let _ = write!(out, "  const @{} : {} = ", quote_name(&c.name), c.ty);
    match c.data() {
        ConstData::Splat(one) => {
            let _ = write!(out, "splat {}", element(one, 0));
        }
        ConstData::Rng(r) => {
            let _ = match r.dist {
                Distribution::Normal(a, b) => write!(out, "rng normal({a}, {b}) seed {}", r.seed),
                Distribution::Uniform(a, b) => write!(out, "rng uniform({a}, {b}) seed {}", r.seed),
            };
        }
        ConstData::Missing(hash) => {
            let _ = write!(out, "blake3:{hash}");
        }
        ConstData::Bytes(_) => match c.tensor() {
            Some(t) if t.len() <= 8 => {
                let items: Vec<String> = (0..t.len()).map(|i| element(t, i)).collect();
                let _ = write!(out, "[{}]", items.join(", "));
            }
            _ => {
                let _ = write!(out, "blake3:{}", c.hash().short());
                if options.statistics {
                    let _ = write!(out, "   // {}", statistics(c));
                }
            }
        },
    }
    if options.locations && c.loc != Loc::Unknown {
        let _ = write!(out, "   // loc {}", c.loc);
    }
    out.push('\n');
}

/// One element: floats so that they read back to the same bits.
fn element(t: &Tensor, i: usize) -> String {
    match t.dtype() {
        DType::Str => quote(&string::get(t, i)),
        d if d.part().is_some() => format!("({}, {})", element(&t.parts(), 2 * i), element(&t.parts(), 2 * i + 1)),
        d if d.is_float() => format!("{:?}", t.get_f64(i)),
        _ => t.get_i64(i).to_string(),
    }
}

/// `min -0.312 max 0.294 rms 0.0511 zeros 0.0%`, computed in element order.
fn statistics(c: &Constant) -> String {
    let Some(t) = c.tensor() else { return String::new() };
    if t.dtype() == DType::Str {
        return format!("{} B as stored", string::stored(t).len());
    }
    let (mut min, mut max, mut square, mut zeros) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0usize);
    let t = t.parts();
    for v in (0..t.len()).map(|i| t.get_f64(i)) {
        (min, max, square, zeros) = (min.min(v), max.max(v), square + v * v, zeros + usize::from(v == 0.0));
    }
    let n = t.len().max(1) as f64;
    format!(
        "min {} max {} rms {} zeros {:.1}%",
        figures(min),
        figures(max),
        figures((square / n).sqrt()),
        100.0 * zeros as f64 / n
    )
}

/// Three significant figures.
fn figures(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return format!("{v}");
    }
    let digits = (2 - v.abs().log10().floor() as i32).clamp(0, 12) as usize;
    format!("{v:.digits$}")
}

/// Values after `before`, with commas between.
fn values(out: &mut String, before: &str, f: &Func, values: &[ValueId]) {
    for (i, &v) in values.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { before });
        value(out, f, v);
    }
}

fn value(out: &mut String, f: &Func, v: ValueId) {
    out.push(if f.def_const(v).is_some() { '@' } else { '%' });
    out.push_str(&quote_name(&f.values[v].name));
}

fn signature(f: &Func, names: &[Arc<str>], values: &[ValueId], out: &mut String) {
    for (i, &v) in values.iter().enumerate() {
        let name = names.get(i).map_or(&f.values[v].name, |n| n);
        let _ = write!(out, "{}%{}: {}", if i > 0 { ", " } else { "" }, quote_name(name), f.values[v].ty);
    }
}

fn print_func(out: &mut String, f: &Func, options: PrintOptions) {
    let _ = write!(out, "  func @{}(", quote_name(&f.name));
    // A parameter is printed under its own name; its outside name stands before it where the two differ.
    for (i, &v) in f.body().params.iter().enumerate() {
        let own = &f.values[v].name;
        let outside = f.inputs.get(i).filter(|n| *n != own).map(|n| format!("{} as ", quote_name(n)));
        let _ = write!(
            out,
            "{}{}%{}: {}",
            if i > 0 { ", " } else { "" },
            outside.unwrap_or_default(),
            quote_name(own),
            f.values[v].ty
        );
    }
    out.push_str(") -> (");
    signature(f, &f.outputs, &f.body().results, out);
    out.push_str(") {\n");
    print_region(out, f, f.body_id(), 2, options);
    out.push_str("  }\n");
}

fn print_region(out: &mut String, f: &Func, region: RegionId, depth: usize, options: PrintOptions) {
    let indent = "  ".repeat(depth);
    let r = &f.regions[region];
    let (mut lines, mut ends) = (String::new(), vec![]);
    for &n in &r.nodes {
        node(&mut lines, f, n);
        ends.push(lines.len());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let lines: Vec<&str> = starts.zip(&ends).map(|(start, &end)| &lines[start..end]).collect();
    // Types line up within a region, as far as lines are short.
    let width = lines.iter().map(|l| l.chars().count()).filter(|&w| w <= 72).max().unwrap_or(0);
    for (&n, line) in r.nodes.iter().zip(lines) {
        let node = &f.nodes[n];
        let _ = write!(out, "{indent}{line:width$} ");
        for (i, &v) in node.results.iter().enumerate() {
            let _ = write!(out, "{}{}", if i > 0 { ", " } else { ": " }, f.values[v].ty);
        }
        if options.locations && node.loc != Loc::Unknown {
            let _ = write!(out, "   // loc {}", node.loc);
        }
        for (i, &inner) in node.regions.iter().enumerate() {
            out.push_str(if i == 0 { " {\n" } else { " else {\n" });
            print_region(out, f, inner, depth + 1, options);
            let _ = write!(out, "{indent}}}");
        }
        out.push('\n');
    }
    let _ = write!(out, "{indent}return ");
    values(out, "", f, &r.results);
    out.push('\n');
}

/// One node without its result types: `%y = matmul %a, %b {trans_b}`.
pub fn print_node(f: &Func, n: NodeId) -> String {
    let mut out = String::new();
    node(&mut out, f, n);
    out
}

fn node(out: &mut String, f: &Func, n: NodeId) {
    let node = &f.nodes[n];
    values(out, "", f, &node.results);
    let _ = write!(out, " = {}", node.op.mnemonic());
    if let Op::Choice(c) = &node.op {
        let _ = write!(out, " @{} {{", quote_name(&c.site));
        for (i, (name, &v)) in c.names.iter().zip(&node.operands).enumerate() {
            let _ = write!(out, "{}{}: ", if i > 0 { ", " } else { "" }, quote_name(name));
            value(out, f, v);
        }
        out.push('}');
        return;
    }
    values(out, " ", f, &node.operands);
    let attrs = node.op.print_attrs();
    for (i, (name, v)) in attrs.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { " {" });
        let _ = if v == "true" { write!(out, "{name}") } else { write!(out, "{name}={v}") };
    }
    if !attrs.is_empty() {
        out.push('}');
    }
}
