//! Property tests that every op gets from its declaration and sampler.

use super::{Arity, OpKind};
use crate::dim::Bindings;
use crate::module::{Func, Module};
use crate::testing::Gen;

/// Every op: instances are valid, `eval` gives what `infer` promised, and text round-trips.
#[test]
fn samples_infer_evaluate_and_round_trip() {
    for &kind in OpKind::ALL {
        for seed in 0..60 {
            let mut g = Gen::new(seed);
            let (op, types) = kind.sample(&mut g);
            let refs: Vec<_> = types.iter().collect();
            let out = op.infer(&refs).unwrap_or_else(|d| panic!("{kind:?} seed {seed}: {d}\n{op:?} {types:?}"));
            if !op.is_control() {
                let x = g.operands(&op, &types);
                let env = op.binds().map(|s| (s.clone(), x[1].get_i64(0))).into_iter().collect();
                let y = op
                    .eval(&x.iter().collect::<Vec<_>>(), &Bindings::new())
                    .unwrap_or_else(|d| panic!("{kind:?}: {d}"));
                let got: Vec<_> = y.iter().map(|t| t.ty()).collect();
                let mut bound = out;
                bound.iter_mut().flat_map(|t| &mut t.shape).for_each(|d| *d = d.substitute(&env));
                assert_eq!(got, bound, "{kind:?} seed {seed}: {op:?} {types:?}");
                round_trip(op, &types);
            }
        }
    }
}

fn round_trip(op: super::Op, types: &[crate::types::Type]) {
    let mut m = Module::new("m");
    if let Some(symbol) = op.binds() {
        m.symbol(symbol, Default::default());
    }
    let mut f = Func::new("main");
    let body = f.body_id();
    let params: Vec<_> =
        types.iter().enumerate().map(|(i, t)| f.add_param(body, &format!("x{i}"), t.clone())).collect();
    f.inputs = params.iter().map(|&p| f.values[p].name.clone()).collect();
    let n = f.add_node(body, op.clone(), &params, "y", Default::default()).unwrap();
    f.body_mut().results = f.nodes[n].results.to_vec();
    f.outputs = f.body().results.iter().map(|&v| f.values[v].name.clone()).collect();
    m.funcs.push(f);
    let text = crate::text::print(&m);
    let back = crate::text::parse(&text, &Default::default()).unwrap_or_else(|e| panic!("{}\n{text}", e[0]));
    assert_eq!(crate::text::print(&back), text);
    let f = &back.funcs[back.main().unwrap()];
    assert_eq!(f.nodes[f.body().nodes[0]].op, op, "{text}");
    assert!(crate::verify::verify(&back).is_empty());
}

/// Too few operands are an error of every op that has any, never a panic.
#[test]
fn missing_operands_are_refused() {
    for &kind in OpKind::ALL {
        let (op, types) = kind.sample(&mut Gen::new(1));
        let least = kind.spec().operands.iter().filter(|o| o.arity != Arity::Optional).count();
        if least > 0 {
            let refs: Vec<_> = types.iter().take(least - 1).collect();
            assert_eq!(op.infer(&refs).unwrap_err().code, "T0101", "{kind:?}");
        }
    }
}
