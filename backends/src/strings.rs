//! Strings become handles: `u32` numbers of the strings that a run knows, so that kernels see numbers alone.
//!
//! Exact. It is the last change of a module before it is lowered: ops that look at characters stay as they are, with operands of handles, and become steps that call
//! their function.

use std::collections::HashMap;
use std::sync::Arc;
use tersor_ir::constant::Constant;
use tersor_ir::diag::Result;
use tersor_ir::{Bindings, DType, Def, Loc, Module, NodeId, Op, Tensor, ValueId, string};

/// Whether an op is a call of a function of strings.
pub(crate) fn calls(op: &Op) -> bool {
    !matches!(op.function(&[DType::I64]), Ok(None))
}

/// Makes strings of `@main` handles, and returns the strings that constants are made of: handle `i + 1` stands for entry `i`, handle 0 for the empty string.
pub fn handles(m: &mut Module) -> Result<Vec<String>> {
    let main = m.main()?;
    if m.funcs[main].values.values().all(|v| v.ty.dtype != DType::Str) {
        return Ok(vec![]);
    }
    compute(m)?;
    let f = &mut m.funcs[main];
    let (mut strings, mut known) = (vec![], HashMap::<Arc<str>, u32>::new());
    for c in f.live_constants() {
        let c = &mut m.consts[c];
        let Some(t) = c.tensor().filter(|t| t.dtype() == DType::Str) else { continue };
        let mut handle = |s: Arc<str>| match s.is_empty() {
            true => 0,
            false => *known.entry(s).or_insert_with_key(|s| {
                strings.push(s.to_string());
                strings.len() as u32
            }),
        };
        let handles: Vec<u64> = string::strings(t).into_iter().map(|s| handle(s).into()).collect();
        let t = Tensor::from_bits(DType::U32, t.shape(), handles.into_iter());
        *c = Constant::from_tensor(c.name.clone(), &t, c.loc.clone());
    }
    for v in f.values.values_mut().filter(|v| v.ty.dtype == DType::Str) {
        v.ty.dtype = DType::U32;
    }
    Ok(strings)
}

/// Computes what depends on constants alone and is, or is made of, strings: constants must not be read once they are handles.
fn compute(m: &mut Module) -> Result<()> {
    let main = m.main()?;
    let Module { consts, funcs, .. } = m;
    let f = &mut funcs[main];
    let order: Vec<NodeId> = f.body().nodes.clone();
    for n in order {
        let node = f.nodes[n].clone();
        let text = |v: &ValueId| f.values[*v].ty.dtype == DType::Str;
        let constant = node.operands.iter().all(|&v| matches!(f.values[v].def, Def::Const(_)));
        if node.operands.is_empty() || !constant || !node.operands.iter().chain(&node.results).any(text) {
            continue;
        }
        let x: Option<Vec<&Tensor>> = node.operands.iter().map(|&v| consts[f.def_const(v)?].tensor()).collect();
        let Some(x) = x else { continue };
        let results = node.op.eval(&x, &Bindings::new()).map_err(|d| d.at_loc(&node.loc))?;
        for (&v, t) in node.results.iter().zip(&results) {
            let name = f.values[v].name.clone();
            let c = consts.push(Constant::from_tensor(name, t, Loc::Unknown));
            let new = f.const_value(consts, c);
            f.replace_uses(v, new);
        }
    }
    f.remove_dead();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::parse;

    const TEXT: &str = "module @m {
  const @a : str[2] = [\"x\", \"\"]
  const @b : str[] = [\"y\"]
  func @main(%x: str[2]) -> (%y: str[2], %m: bool[2]) {
    %both = broadcast @b {shape=[2]} : str[2]
    %xy = text.concat @a, %both : str[2]
    %m = eq %x, %xy : bool[2]
    %y = text.concat %x, %xy : str[2]
    return %y, %m
  }
}";

    #[test]
    fn constants_are_computed_and_numbered() {
        let mut m = parse(TEXT);
        assert_eq!(handles(&mut m).unwrap(), ["xy", "y"]);
        let f = &m.funcs[m.main().unwrap()];
        assert!(f.values.values().all(|v| v.ty.dtype != DType::Str));
        let live = f.live_constants();
        assert_eq!(live.iter().map(|&c| m.consts[c].tensor().unwrap().to_i64()).collect::<Vec<_>>(), [[1, 2]]);
        assert_eq!(f.body().nodes.len(), 2);
    }
}
