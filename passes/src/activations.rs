//! `activations`: codes of 8 bits for the rows that encoded weights multiply, with a scale for each group, found at run time.
//!
//! An alternative decodes what it has rounded: `decode.affine(quant.dynamic(x))` takes the place of `x`, in the groups of the weight. The product then is of integers,
//! group by group, on targets whose kernels can; elsewhere it is the same numbers as floats.

use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use tersor_ir::diag::Failure;
use tersor_ir::ops::{DecodeAffine, QuantDynamic};
use tersor_ir::{Consts, DType, Def, Diagnostic, Dim, Func, Module, NodeId, Op, Result, ValueId, interp};

/// Neighbours that share a scale where all of a weight's column do: the first that divides a row.
const GROUPS: [u32; 3] = [64, 32, 16];

pass! {
    /// Rounds the rows of products by encoded weights to codes of 8 bits, with a scale for each group of neighbours that is found at run time.
    ///
    /// Applies to f32 `matmul` by a `decode.affine` of constants, so it stands behind the pass that encodes weights. CPUs with VNNI or AMX then multiply codes by codes.
    pub struct Activations = "activations": Propose {
        options {
            /// Neighbours of a row that share a scale, which divide it; 0 for as many as of the weight, or 64, 32 or 16 where all of a column share one.
            group: u32 = 0,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "products offered", "declined": "products left as they are" }
    }
}

/// The node that decodes the weight of a product, however its result is turned or cut.
fn decoding(consts: &Consts, f: &Func, n: NodeId) -> Option<DecodeAffine> {
    let node = &f.nodes[n];
    let Op::MatMul(op) = &node.op else { return None };
    let mut w = *node.operands.get(1)?;
    let float = |v: ValueId| f.values[v].ty.dtype == DType::F32;
    if op.trans_a || !node.operands.iter().all(|&v| float(v)) || f.def_const(node.operands[0]).is_some() {
        return None;
    }
    loop {
        let Def::Node(d, _) = f.values[w].def else { return None };
        let d = &f.nodes[d];
        match &d.op {
            Op::DecodeAffine(affine) => {
                let known = |&v: &ValueId| interp::is_constant(consts, f, v);
                return d.operands.iter().all(known).then(|| affine.clone());
            }
            Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) => w = d.operands[0],
            _ => return None,
        }
    }
}

impl Activations {
    /// How many neighbours of a row of so many share a scale; an error says why that cannot be.
    fn group(&self, decode: &DecodeAffine, depth: &Dim) -> Result<u32, String> {
        let divides = |g: &u32| depth.exact_div(&i64::from(*g).into()).is_some();
        let group = match (self.group, decode.group) {
            (0, 0) => GROUPS.into_iter().find(divides).unwrap_or(GROUPS[2]),
            (0, group) | (group, _) => group,
        };
        if divides(&group) {
            Ok(group)
        } else {
            Err(format!(
                "groups of {group} do not divide rows of {depth} elements, and codes of rows have whole groups"
            ))
        }
    }
}

impl Propose for Activations {
    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        if !self.group.is_multiple_of(4) {
            let message = format!("activations: group={} is not a multiple of 4", self.group);
            return Err(Diagnostic::error("S0123", message).failure(Failure::Usage));
        }
        let one = |(id, f): (_, &Func)| {
            let fits = |n: &NodeId| decoding(&m.consts, f, *n).is_some();
            f.live_nodes().into_iter().filter(fits).map(|n| Site::at(m, id, n, 1)).collect::<Vec<_>>()
        };
        let sites = m.funcs.iter().flat_map(one).collect();
        let mut out = vec![];
        for site in cx.select(sites, &self.select, &self.exclude)? {
            let f = &m.funcs[site.func];
            let Def::Node(n, _) = f.values[site.value].def else { continue };
            let Some(decode) = decoding(&m.consts, f, n) else { continue };
            let depth = f.values[f.nodes[n].operands[0]].ty.shape.last().cloned().unwrap_or(0.into());
            match self.group(&decode, &depth) {
                Ok(_) => out.push(site),
                Err(reason) => {
                    cx.count("declined", 1);
                    cx.decline(&site, reason);
                }
            }
        }
        Ok(out)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let Def::Node(n, _) = b.func.values[site.value].def else { return Ok(vec![]) };
        let (op, operands) = (b.func.nodes[n].op.clone(), b.func.nodes[n].operands.clone());
        let (x, shape) = (operands[0], b.ty(operands[0]).shape.clone());
        let Some(decode) = decoding(b.consts, b.func, n) else { return Ok(vec![]) };
        let Some(Ok(group)) = shape.last().map(|depth| self.group(&decode, depth)) else { return Ok(vec![]) };
        let (base, name) = (b.name.clone(), b.func.values[x].name.clone());
        b.name = format!("{name}.q");
        let rows = b.ops(QuantDynamic { group }, &[x])?;
        b.func.rename(rows[1], &format!("{name}.s"));
        b.name = format!("{name}.i8");
        let x = b.op(DecodeAffine { axis: shape.len() as u8 - 1, group }, &rows)?;
        b.name = base;
        let value = b.op(op, &[x, operands[1]])?;
        cx.count("sites", 1);
        Ok(vec![Alternative { name: format!("a8g{group}"), value }])
    }
}
