//! Complex numbers become their parts, along a last axis of extent 2, so that kernels see floats alone.
//!
//! Exact. Like strings they are changed once the signature is recorded: what a caller gives and gets has the same bytes.

use tersor_ir::constant::Constant;
use tersor_ir::diag::Result;
use tersor_ir::module::Builder;
use tersor_ir::ops::Reshape;
use tersor_ir::{Diagnostic, Dim, Failure, Module, NodeId, Op, Tensor, Type};

/// Makes complex values of `@main` floats.
pub fn parts(m: &mut Module) -> Result<()> {
    let main = m.main()?;
    let Module { consts, funcs, .. } = m;
    let f = &mut funcs[main];
    let moves = |n: &NodeId| f.nodes[*n].operands.iter().any(|&v| f.values[v].ty.dtype.part().is_some());
    let found: Vec<NodeId> = f.body().nodes.iter().copied().filter(moves).collect();
    for c in f.live_constants() {
        let c = &mut consts[c];
        if let Some(t) = c.tensor().filter(|t| t.dtype().part().is_some()).map(Tensor::parts) {
            *c = Constant::from_tensor(c.name.clone(), &t, c.loc.clone());
        }
    }
    for n in found {
        let rank = f.values[f.nodes[n].operands[0]].ty.rank() as u8;
        match &mut f.nodes[n].op {
            Op::Reshape(r) => r.shape.push(2.into()),
            Op::Broadcast(b) => b.shape.push(2.into()),
            Op::Transpose(t) => t.perm.push(rank),
            Op::Pad(p) => {
                p.lo.push(0);
                p.hi.push(0);
            }
            // The condition of a number is that of its parts.
            Op::Select(_) => {
                let (cond, at) = (f.nodes[n].operands[0], f.body().nodes.len());
                let shape: Vec<Dim> = f.values[cond].ty.shape.iter().cloned().chain([1.into()]).collect();
                let name = f.values[cond].name.to_string();
                let mut b = Builder { loc: f.nodes[n].loc.clone(), name, ..Builder::new(consts, f) };
                f.nodes[n].operands[0] = b.op(Reshape { shape }, &[cond])?;
                let nodes = &mut f.body_mut().nodes;
                let made = nodes.split_off(at);
                let at = nodes.iter().position(|&other| other == n).expect("a node of the body");
                nodes.splice(at..at, made);
            }
            // Their axes count from the front; control flow and choices have no code.
            Op::Slice(_)
            | Op::Concat(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::Prefix(_)
            | Op::If(_)
            | Op::Choice(_) => {}
            op => {
                let message = format!("no code moves complex numbers by `{}`", op.mnemonic());
                return Err(Diagnostic::error("B0107", message).failure(Failure::Unsupported).at_loc(&f.nodes[n].loc));
            }
        }
    }
    for v in f.values.values_mut() {
        if let Some(part) = v.ty.dtype.part() {
            v.ty = Type::new(part, v.ty.shape.iter().cloned().chain([2.into()]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::build;
    use crate::cpu::testing::{check, parse};
    use crate::fuse::fuse;
    use crate::kernel::Isa;
    use tersor_ir::interp;
    use tersor_ir::testing::Gen;
    use tersor_ir::verify::verify;

    /// Every op that moves complex numbers, of both widths.
    const TEXT: &str = "module @m {
  const @i : i64[2] = [2, 0]
  const @m : bool[3] = [1, 0, 1]
  const @z : c64[] = [(1.5, -2.5)]
  func @main(%x: c64[2,3]) -> (%y: c64[3,3]) {
    %t = transpose %x {perm=[1,0]} : c64[3,2]
    %g = gather %t, @i : c64[2,2]
    %c = concat %t, %g {axis=0} : c64[5,2]
    %p = pad %c {lo=[1,0], hi=[0,1]} : c64[6,3]
    %s = slice %p {axis=0, start=0, len=3, step=2} : c64[3,3]
    %r = reshape %s {shape=[9]} : c64[9]
    %q = reshape %r {shape=[3,3]} : c64[3,3]
    %b = broadcast @z {shape=[2,3]} : c64[2,3]
    %w = scatter %q, @i, %b : c64[3,3]
    %y = select @m, %w, @z : c64[3,3]
    return %y
  }
}";

    #[test]
    fn moves_are_those_of_the_parts() {
        for text in [TEXT.to_string(), TEXT.replace("c64", "c128")] {
            let mut m = parse(&text);
            let f = &m.funcs[m.main().unwrap()];
            let x = Gen::new(1).tensor(&f.values[f.body().params[0]].ty);
            let want = interp::run(&m, std::slice::from_ref(&x)).unwrap();
            parts(&mut m).unwrap();
            assert!(verify(&m).is_empty(), "{}", verify(&m)[0]);
            let got = interp::run(&m, &[x.parts()]).unwrap();
            assert_eq!(got, want.iter().map(Tensor::parts).collect::<Vec<_>>());
            let f = &m.funcs[m.main().unwrap()];
            check(&m, &fuse(f), Isa::V3, build, &[x.parts()], 0.0);
            assert!(f.values.values().all(|v| v.ty.dtype.part().is_none()));
        }
    }
}
