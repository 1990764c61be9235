//! What every alternative costs.

use super::SearchOptions;
use super::journal::Journal;
use super::meter::Meter;
use crate::driver::{Result, calibrate, usage};
use tersor_backends::kernel::Isa;
use tersor_backends::lower;
use tersor_backends::target::Machine;
use tersor_ir::plan::{Plan, resolve};
use tersor_ir::{Diagnostic, Func, FuncId, Module, NodeId, Op, ValueId};
use tersor_passes::allocate::{Alternative, Costs, Row, Table};
use tersor_passes::choose::costs_of;
use tersor_passes::family::Site;
use tersor_passes::patches::Tap;
use tersor_passes::statistics::Statistics;

/// Costs of every alternative: bytes as the target's kernels read them and as they are encoded, seconds by the target's description, and the error of the plan that picks
/// it alone, or of its layer. Goes on from what the journal has.
pub fn measure(
    meter: &mut Meter,
    o: &SearchOptions,
    journal: &mut Journal,
    notes: &mut Vec<Diagnostic>,
) -> Result<Table> {
    let one = |d: Diagnostic| vec![d];
    let start = meter.watch.begin("measure").map_err(one)?;
    let isa = o.targets.first().ok_or_else(|| vec![usage("no target")])?.isa;
    let family = meter.plans.family().clone();
    let sites = meter.plans.sites().to_vec();
    let base = meter.probe(&Plan::default())?;
    let statistics = if o.layers { Some(inputs(&family, &sites, meter, o)?) } else { None };
    for (i, s) in sites.iter().enumerate().skip(journal.rows().len()) {
        let mut row = Row { sites: vec![s.name.clone()], alternatives: vec![] };
        for (a, name) in s.alternatives.iter().enumerate() {
            let mut leave = |why: String| {
                notes.push(Diagnostic::warning("S0428", format!("%{}: {name} is left out, {why}", s.name)));
            };
            let size = match s.program(&family, a).and_then(|m| packed(&m, isa)) {
                Ok(size) => size,
                Err(_) if a == 0 => costs_of(&family, s.func, &s.nodes(&family, a), Machine::of(isa)).0 as f64,
                Err(d) => {
                    leave(format!("it does not compile: {}", d.message));
                    continue;
                }
            };
            let error = match (a, &statistics) {
                (0, _) => 0.0,
                (_, Some(known)) => match s.relative_error(&family, a, known) {
                    Some(e) => e,
                    None => {
                        leave("it is more than another weight for a layer whose inputs are known".into());
                        continue;
                    }
                },
                _ => meter.probe(&Plan { picks: [(s.name.clone(), name.clone())].into() })? - base,
            };
            if !error.is_finite() {
                leave("its outputs are not finite".into());
                continue;
            }
            row.alternatives.push(Alternative { name: name.clone(), costs: costs(&family, s, a, isa, size, error) });
        }
        meter.watch.detail(1, format!("{}/{} %{}", i + 1, sites.len(), s.name));
        journal.add(row)?;
    }
    journal.save()?;
    let rows = together(journal.rows());
    let done: usize = rows.iter().map(|r| r.alternatives.len()).sum();
    let mut table = Table { rows, fixed: Costs::default() };
    table.fixed = fixed(&table, &family, isa, base)?;
    meter.watch.done("measure", format!("{done} alternatives at {} sites", table.rows.len()), start);
    Ok(table)
}

fn packed(m: &Module, isa: Isa) -> tersor_ir::Result<f64> {
    Ok(lower::packed(m, isa)?.iter().map(|c| c.1.len() as f64).sum())
}

fn costs(family: &Module, s: &Site, a: usize, isa: Isa, size: f64, error: f64) -> Costs {
    let nodes = s.nodes(family, a);
    let (encoded, latency) = costs_of(family, s.func, &nodes, Machine::of(isa));
    Costs { error, latency, size, encoded: encoded as f64, memory: size, work: work(family, s.func, &nodes) }
}

/// Rows of sites of one name joined: they choose together, and their error was measured together.
fn together(rows: &[Row]) -> Vec<Row> {
    let mut out: Vec<Row> = vec![];
    for row in rows {
        let Some(first) = out.iter_mut().find(|r| r.sites == row.sites) else {
            out.push(row.clone());
            continue;
        };
        for (x, y) in first.alternatives.iter_mut().zip(&row.alternatives) {
            x.costs = x.costs + Costs { error: 0.0, ..y.costs };
        }
    }
    out
}

/// What no decision changes.
fn fixed(table: &Table, family: &Module, isa: Isa, base: f64) -> Result<Costs> {
    let one = |d: Diagnostic| vec![d];
    let mut exact = family.clone();
    resolve(&mut exact, &Plan::default())?;
    let func = exact.main().map_err(one)?;
    let nodes = exact.funcs[func].live_nodes();
    let size = packed(&exact, isa).map_err(one)?;
    let (encoded, latency) = costs_of(&exact, func, &nodes, Machine::of(isa));
    let memory = size + lower::arena(&exact, isa).map_err(one)? as f64;
    let all = Costs { error: 0.0, latency, size, encoded: encoded as f64, memory, work: work(&exact, func, &nodes) };
    let rest = all - table.totals(&table.exact());
    let positive = |v: f64| v.max(0.0);
    Ok(Costs {
        error: base,
        latency: positive(rest.latency),
        size: positive(rest.size),
        encoded: positive(rest.encoded),
        memory: positive(rest.memory),
        work: positive(rest.work),
    })
}

/// Statistics of the inputs of all sites, with Gram matrices.
fn inputs(family: &Module, sites: &[Site], meter: &Meter, o: &SearchOptions) -> Result<Statistics> {
    let samples = o.samples.as_ref().ok_or_else(|| vec![usage("errors of layers need --calib")])?;
    let mut exact = family.clone();
    resolve(&mut exact, &Plan::default())?;
    let tap = |s: &Site| Some(Tap::with_gram(&exact, s.func, s.exact(family)?));
    let mut taps: Vec<Tap> = sites.iter().filter_map(tap).collect();
    taps.sort_unstable();
    taps.dedup();
    calibrate(&exact, &taps, samples, meter.watch).map_err(|d| vec![d])
}

/// The share of a weight's elements that are stored.
fn density(f: &Func, mut v: ValueId) -> f64 {
    while let Some(n) = f.def_node(v) {
        match &n.op {
            Op::DecodeSparse(d) => {
                let all: i64 = d.shape.iter().filter_map(|d| d.as_const()).product();
                let stored =
                    f.values[n.operands[0]].ty.static_shape().map_or(all, |s| s.iter().product::<usize>() as i64);
                return stored as f64 / all.max(1) as f64;
            }
            Op::DecodeAffine(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Cast(_) => v = n.operands[0],
            _ => return 1.0,
        }
    }
    1.0
}

/// Multiply-adds by elements that are stored.
fn work(m: &Module, func: FuncId, nodes: &[NodeId]) -> f64 {
    let (f, hints) = (&m.funcs[func], m.hints());
    let one = |&n: &NodeId| {
        let node = &f.nodes[n];
        let heavy = matches!(node.op, Op::MatMul(_) | Op::Conv(_) | Op::Attention(_));
        let ins: Vec<_> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
        let outs: Vec<_> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
        let madds = if heavy { node.op.work(&ins, &outs).madds.eval(&hints).unwrap_or(0) as f64 } else { 0.0 };
        madds * node.operands.get(1).map_or(1.0, |&w| density(f, w))
    };
    nodes.iter().map(one).sum()
}
