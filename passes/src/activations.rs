//! `activations`: codes of 8 bits for the rows that encoded weights multiply, with a scale for each group, found at run time.
//!
//! An alternative decodes what it has rounded: `decode.affine(quant.dynamic(x))` takes the place of `x`, in the groups of the weight. The product then is of integers,
//! group by group, on targets whose kernels can; elsewhere it is the same numbers as floats.

use crate::coupling::{choices, exact_nodes};
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use std::collections::HashMap;
use tersor_ir::diag::Failure;
use tersor_ir::ops::{DecodeAffine, QuantDynamic};
use tersor_ir::{Consts, DType, Def, Diagnostic, Dim, Func, Module, NodeId, Op, Result, ValueId, interp};

/// Neighbours that share a scale where all of a weight's column do: the first that divides a row.
const GROUPS: [u32; 3] = [64, 32, 16];

pass! {
    /// Rounds the rows of products by encoded weights to codes of 8 bits, with a scale for each group of neighbours that is found at run time.
    ///
    /// Applies to f32 `matmul` by a `decode.affine` of constants, so it stands behind the pass that encodes weights; where that is to be decided later, to each of its
    /// alternatives. CPUs with VNNI or AMX then multiply codes by codes.
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

/// How the weight of the product that makes a value is decoded, however the result of that is turned or cut.
fn decoding(consts: &Consts, f: &Func, product: ValueId) -> Option<DecodeAffine> {
    let Def::Node(n, _) = f.values[product].def else { return None };
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

/// A product by an encoded weight that may stand at a site.
struct Form {
    /// Its name among alternatives; `None` for the site's own op.
    name: Option<String>,
    product: ValueId,
    /// How many neighbours of a row share a scale; an error says why none can.
    group: Result<u32, String>,
}

impl Activations {
    /// The site's own op, or what its `choice` has beside that, where it is a product by an encoded weight.
    fn forms(&self, consts: &Consts, f: &Func, value: ValueId, choice: Option<NodeId>) -> Vec<Form> {
        let standing: Vec<_> = match choice.map(|c| (&f.nodes[c], &f.nodes[c].op)) {
            Some((node, Op::Choice(op))) => {
                op.names.iter().cloned().map(Some).zip(node.operands.iter().copied()).skip(1).collect()
            }
            _ => vec![(None, value)],
        };
        let encoded = |(name, product)| {
            let decode = decoding(consts, f, product)?;
            let depth = f.values[f.def_node(product)?.operands[0]].ty.shape.last()?.clone();
            Some(Form { name, product, group: self.group(&decode, &depth) })
        };
        standing.into_iter().filter_map(encoded).collect()
    }
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
    /// A product of codes of its rows.
    fn rounded(b: &mut Editor, product: Op, operands: &[ValueId], group: u32) -> Result<ValueId> {
        let (x, axis) = (operands[0], b.ty(operands[0]).rank() - 1);
        let (base, input) = (b.name.clone(), b.func.values[x].name.clone());
        b.name = format!("{input}.q");
        let rows = b.ops(QuantDynamic { group }, &[x])?;
        b.func.rename(rows[1], &format!("{input}.s"));
        b.name = format!("{input}.i8");
        let x = b.op(DecodeAffine { axis: axis as u8, group }, &rows)?;
        b.name = base;
        b.op(product, &[x, operands[1]])
    }
}

impl Propose for Activations {
    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        if !self.group.is_multiple_of(4) {
            let message = format!("activations: group={} is not a multiple of 4", self.group);
            return Err(Diagnostic::error("S0123", message).failure(Failure::Usage));
        }
        let (mut sites, mut groups) = (vec![], HashMap::new());
        for (id, f) in m.funcs.iter() {
            let choices = choices(f);
            for n in exact_nodes(f) {
                let Some(&value) = f.nodes[n].results.first() else { continue };
                let forms = self.forms(&m.consts, f, value, choices.get(&value).copied());
                if let Some(group) = forms.into_iter().map(|form| form.group).reduce(Result::or) {
                    sites.push(Site::at(m, id, n, 1));
                    groups.insert((id, value), group);
                }
            }
        }
        let mut out = vec![];
        for site in cx.select(sites, &self.select, &self.exclude)? {
            match &groups[&(site.func, site.value)] {
                Ok(_) => out.push(site),
                Err(reason) => {
                    cx.count("declined", 1);
                    cx.decline(&site, reason.clone());
                }
            }
        }
        Ok(out)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let mut out = vec![];
        for Form { name, product, group } in self.forms(b.consts, b.func, site.value, b.choice) {
            let (Ok(group), Def::Node(n, _)) = (group, b.func.values[product].def) else { continue };
            let (op, operands) = (b.func.nodes[n].op.clone(), b.func.nodes[n].operands.clone());
            let value = Self::rounded(b, op, &operands, group)?;
            let codes = format!("a8g{group}");
            let name = name.map_or(codes.clone(), |name| format!("{name}-{codes}"));
            out.push(Alternative { name, value });
        }
        cx.count("sites", u64::from(!out.is_empty()));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::family;
    use crate::filetest::{run_decided, seeded_inputs};
    use crate::manager::Decide;
    use tersor_ir::interp;
    use tersor_ir::plan::Plan;
    use tersor_ir::testing::rel_l2;

    #[test]
    fn a_plan_may_take_codes_of_rows_with_each_encoding() {
        let text = "module @m { const @w : f32[256,64] = rng normal(0, 1) seed 1
            func @main(%x: f32[3,256]) -> (%y: f32[3,64]) { %y = matmul %x, @w : f32[3,64] return %y } }";
        let exact = tersor_ir::text::parse(text, &Default::default()).unwrap();
        let encode = |bits| format!("quantize{{acts=none, bits={bits}, group=32}}");
        let all = format!("{}, {}, activations", encode(8), encode(4));
        let mut offered = exact.clone();
        run_decided(&all, &mut offered, Decide::Later).unwrap();
        let names = ["exact", "w8g32", "w4g32", "w8g32-a8g32", "w4g32-a8g32"];
        assert_eq!(family::sites(&offered)[0].alternatives, names);
        let planned = |name: &str| {
            let mut m = exact.clone();
            let plan = Plan { picks: [("y".to_string(), name.to_string())].into() };
            run_decided(&all, &mut m, Decide::Plan(plan)).unwrap();
            interp::run(&m, &seeded_inputs(&exact, 5).unwrap()).unwrap().remove(0)
        };
        for (floats, codes) in [(names[1], names[3]), (names[2], names[4])] {
            let error = rel_l2(&planned(codes), &planned(floats));
            assert!(error > 1e-3 && error < 1e-2, "{codes} {error}");
        }
    }
}
