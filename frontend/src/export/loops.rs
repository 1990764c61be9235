//! Loops: the function that one calls becomes its graph, which sees the names around it.

use super::{Exporter, unsupported};
use crate::message::{self, Attr, field};
use tersor_ir::diag::Result;
use tersor_ir::ops::Loop;
use tersor_ir::{DType, Dim, Func, NodeId, Op, Type, ValueId};

impl Exporter<'_> {
    /// `Loop`. Where the number of calls is read, it is carried along; what is collected is filled up to the extent that it has here.
    pub(super) fn repeat(&mut self, n: NodeId, l: &Loop, x: &[&str]) -> Result<()> {
        let m = self.m;
        let body = m.func(&l.body).ok_or_else(|| unsupported(format!("there is no function @{}", l.body)))?;
        let body = &m.funcs[body];
        let (f, carried) = (self.f, l.carried as usize);
        let results: Vec<ValueId> = f.nodes[n].results.to_vec();
        let cuts: Vec<Option<Vec<NodeId>>> =
            results[1 + carried..].iter().map(|&v| cut_to_count(f, v, results[0])).collect();
        let cut: Vec<NodeId> = cuts.iter().flatten().flatten().copied().collect();
        let (count_readers, returned) = readers(f, results[0]);
        let uncut = cuts.contains(&None) && !count_readers.is_empty();
        let counted = returned || uncut || count_readers.iter().any(|r| !cut.contains(r));
        let [i, cond, count] = ["i", "cond", "count"].map(|base| self.fresh(base));
        let states: Vec<String> = (0..carried).map(|_| self.fresh("state")).collect();
        let collected: Vec<Type> = l.results[carried..].to_vec();

        // Into the function, and back.
        let names = states.iter().map(String::as_str).chain(x[2 + carried..].iter().copied());
        let names = body.body().params.iter().copied().zip(names.map(str::to_string)).collect();
        let outer = (f, std::mem::replace(&mut self.names, names));
        let (folded, dims) = (std::mem::take(&mut self.folded), self.dims.clone());
        let (inside, linears) = (std::mem::take(&mut self.inside), std::mem::take(&mut self.linears));
        let number = self.fresh("number");
        self.dims.insert(l.over.clone(), number.clone());
        self.around.push(outer);
        self.f = body;
        self.look_ahead();
        let (nodes, mut made) = self.nodes_and_outputs(body.body_id(), false);
        (self.f, self.names) = self.around.pop().expect("pushed");
        (self.folded, self.dims, self.inside, self.linears) = (folded, dims, inside, linears);

        let flat = self.numbers(&[-1])?;
        let scalar = |dtype| Type::scalar(dtype);
        let mut g = vec![];
        let mut first = |op: &str, inputs: &[&str], output: &str| {
            field(&mut g, 1, &message::node(&format!("{op}:{output}"), op, inputs, &[output], &[]));
        };
        first("Reshape", &[&i, &flat], &number);
        self.read.insert(flat);
        let next = self.fresh("next");
        if counted {
            let step = self.scalar(DType::I64, 1.0)?;
            first("Add", &[&count, &step], &next);
            self.read.insert(step);
        }
        field(&mut g, 11, &message::value_info(&i, &scalar(DType::I64)));
        field(&mut g, 11, &message::value_info(&cond, &scalar(DType::Bool)));
        for (name, ty) in states.iter().zip(&l.results) {
            field(&mut g, 11, &message::value_info(name, ty));
        }
        if counted {
            field(&mut g, 11, &message::value_info(&count, &scalar(DType::I64)));
            // What is carried comes before what is collected.
            made.insert(1 + carried, message::value_info(&next, &scalar(DType::I64)));
        }
        g.extend(nodes);
        field(&mut g, 2, l.body.as_bytes());
        made.iter().for_each(|info| field(&mut g, 12, info));

        let zero = self.scalar(DType::I64, 0.0)?;
        let mut inputs = x[..2 + carried].to_vec();
        if self.tensor(f.nodes[n].operands[0]).is_some_and(|t| t.get_i64(0) == i64::MAX) {
            inputs[0] = "";
        }
        let mut outputs: Vec<String> = results[1..1 + carried].iter().map(|&v| self.name_result(v)).collect();
        if counted {
            inputs.push(&zero);
            outputs.push(self.name_result(results[0]));
        }
        let (mut fill, mut same) = (vec![], vec![]);
        for ((&v, ty), cut) in results[1 + carried..].iter().zip(&collected).zip(cuts) {
            let cut: Vec<ValueId> = cut.into_iter().flatten().map(|n| f.nodes[n].results[0]).collect();
            match &cut[..] {
                [] if counted => {
                    let (made, name) = (self.fresh("collected"), self.name_result(v));
                    outputs.push(made.clone());
                    fill.push((made, name, ty.clone()));
                }
                [] => outputs.push(self.name_result(v)),
                [first, others @ ..] => {
                    let made = self.name_result(*first);
                    same.extend(others.iter().map(|&v| (made.clone(), v)));
                    outputs.push(made);
                }
            }
        }
        self.inside.extend(cut);
        let name = l.body.strip_suffix(super::BODY_OF_NODE).unwrap_or(&l.body);
        self.emit_as(name, "Loop", &inputs, &outputs, &[("body", Attr::Graph(g))], &[]);
        for (made, v) in same {
            let name = self.name_result(v);
            self.emit("Identity", &[&made], &[name], &[]);
        }
        for (made, name, ty) in fill {
            let most = self.dim(&ty.shape[0])?;
            let there = self.temp("Shape", &[&made], &[("end", 1.into())]);
            let left = self.temp("Sub", &[&most, &there], &[]);
            let row = self.extents(&ty.shape[1..])?;
            let shape = self.temp("Concat", &[&left, &row], &[("axis", 0.into())]);
            let nothing = self.scalar(ty.dtype, 0.0)?;
            let rest = self.temp("Expand", &[&nothing, &shape], &[]);
            self.emit("Concat", &[&made, &rest], &[name], &[("axis", 0.into())]);
        }
        Ok(())
    }
}

/// The nodes that read a value, and whether a region gives it.
fn readers(f: &Func, v: ValueId) -> (Vec<NodeId>, bool) {
    let reads = |n: &NodeId| f.nodes[*n].operands.contains(&v);
    (f.live_nodes().into_iter().filter(reads).collect(), f.regions.values().any(|r| r.results.contains(&v)))
}

/// The readers of what a loop collected, where all of them take as many slices as there were calls: that is what a `Loop` gives.
fn cut_to_count(f: &Func, v: ValueId, count: ValueId) -> Option<Vec<NodeId>> {
    let bound = |n: &NodeId| match &f.nodes[*n].op {
        Op::Prefix(p) if p.axis == 0 => Some(p.extent.clone()),
        _ => None,
    };
    let counts: Vec<Dim> = readers(f, count).0.iter().filter_map(bound).collect();
    let cuts = |n: &NodeId| match &f.nodes[*n].op {
        Op::Prefix(p) => p.axis == 0 && f.nodes[*n].operands[1] == count,
        Op::Slice(s) => s.axis == 0 && s.step == 1 && s.start == Dim::Const(0) && counts.contains(&s.len),
        _ => false,
    };
    let (readers, returned) = readers(f, v);
    (!returned && readers.iter().all(cuts)).then_some(readers)
}
