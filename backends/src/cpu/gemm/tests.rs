//! Products against the reference evaluator, in the emulator.

use crate::cpu::testing::{check, parse, random_inputs, whole};
use crate::kernel::Isa;
use tersor_ir::module::Builder;
use tersor_ir::ops::MatMul;
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, Dim, Func, Module, Tensor, Type};

/// Extents and types of a product with constant weights.
#[derive(Clone, Debug)]
struct Case {
    types: (DType, DType),
    wide: bool,
    trans_b: bool,
    lead: Option<usize>,
    m: usize,
    k: usize,
    n: usize,
    symbolic: bool,
}

impl Case {
    fn weight(&self) -> Type {
        Type::new(self.types.1, if self.trans_b { [self.n, self.k] } else { [self.k, self.n] })
    }
}

fn module(c: &Case, w: &Tensor) -> (Module, Bindings) {
    let mut m = Module::new("m");
    let mut f = Func::new("main");
    let body = f.body_id();
    let env = Bindings::from([("M".into(), c.m as i64)]);
    let rows = if c.symbolic { Dim::from("M") } else { c.m.into() };
    let shape: Vec<Dim> = c.lead.map(Dim::from).into_iter().chain([rows, c.k.into()]).collect();
    let x = f.add_param(body, "x", Type::new(c.types.0, shape));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let w = b.constant("w", w);
    let y = b.op(MatMul { trans_a: false, trans_b: c.trans_b, wide: c.wide }, &[x, w]).unwrap();
    f.body_mut().results = vec![y];
    f.inputs = vec!["x".into()];
    f.outputs = vec!["y".into()];
    m.funcs.push(f);
    (m, env)
}

fn run(c: &Case, isa: Isa, seed: u64) {
    let mut g = Gen::new(seed);
    let (m, env) = module(c, &g.tensor(&c.weight()));
    check(&m, &whole(&m), isa, super::build, &random_inputs(&m, &env, seed), 1e-5);
}

const TYPES: [(DType, DType, bool); 11] = [
    (DType::I16, DType::I16, false),
    (DType::F32, DType::F32, false),
    (DType::F32, DType::F32, false),
    (DType::U8, DType::I8, false),
    (DType::I8, DType::I8, false),
    (DType::BF16, DType::BF16, true),
    (DType::BF16, DType::BF16, false),
    (DType::F16, DType::F16, true),
    (DType::I8, DType::U8, false),
    (DType::I64, DType::I64, false),
    (DType::F64, DType::F64, false),
];

#[test]
fn weights_agree_with_the_evaluator() {
    let mut g = Gen::new(31);
    for seed in 0..90 {
        let (a, b, wide) = g.one_of(&TYPES);
        let case = Case {
            types: (a, b),
            wide,
            trans_b: g.flip(),
            lead: if g.flip() { Some(g.int(1, 3) as usize) } else { None },
            m: g.one_of(&[1, 2, 3, 5, 6, 7, 13, 16, 29, 37]),
            k: g.one_of(&[1, 3, 4, 7, 16, 31, 32, 64, 65, 130]),
            n: g.one_of(&[1, 5, 16, 17, 32, 48, 50, 100]),
            symbolic: g.flip(),
        };
        run(&case, g.one_of(&Isa::ALL), seed);
    }
}

/// Sums of two products of bytes need 17 bits, unless neighbouring weights are small: both ways, on all machines.
#[test]
fn bytes_at_the_ends_of_their_range_are_exact() {
    let mut g = Gen::new(33);
    for seed in 0..36 {
        let c = Case {
            types: (g.one_of(&[DType::U8, DType::I8]), DType::I8),
            wide: false,
            trans_b: g.flip(),
            lead: None,
            m: g.one_of(&[1, 4, 11]),
            k: g.one_of(&[2, 9, 64, 130]),
            n: g.one_of(&[3, 16, 40]),
            symbolic: g.flip(),
        };
        let mut w = g.extremes(&c.weight());
        if seed % 2 == 0 {
            let halves: Vec<i64> = w.to_i64().iter().map(|q| q / 2).collect();
            w = Tensor::from_i64(DType::I8, w.shape().to_vec(), &halves);
        }
        let (m, _) = module(&c, &w);
        let x = g.extremes(&Type::new(c.types.0, [c.m, c.k]));
        check(&m, &whole(&m), Isa::ALL[seed % 3], super::build, &[x], 0.0);
    }
}

#[test]
fn blocks_of_rows_and_columns() {
    let base = Case {
        types: (DType::F32, DType::F32),
        wide: false,
        trans_b: false,
        lead: None,
        m: 51,
        k: 1024,
        n: 33,
        symbolic: true,
    };
    run(&base, Isa::V3, 1);
    run(&Case { m: 300, k: 200, ..base.clone() }, Isa::V3, 2);
    run(&Case { m: 70, types: (DType::I8, DType::I8), ..base.clone() }, Isa::Amx, 3);
    run(&Case { m: 3, n: 600, k: 20, ..base }, Isa::V4, 4);
}

#[test]
fn epilogues_run_on_sums() {
    let text = "module @m {
  const @w : f32[20,40] = rng normal(0, 1) seed 2
  const @b : f32[40] = rng normal(0, 1) seed 3
  func @main(%x: f32[B,7,20], %r: f32[B,7,40]) -> (%z: f32[B,7,40], %u: f32[B,7,40]) {
    %y = matmul %x, @w : f32[B,7,40]
    %s = add %y, @b : f32[B,7,40]
    %t = relu %s : f32[B,7,40]
    %z = add %t, %r : f32[B,7,40]
    %u = gelu %z : f32[B,7,40]
    return %z, %u
  }
}";
    let m = parse(text);
    for isa in Isa::ALL {
        let inputs = random_inputs(&m, &Bindings::from([("B".into(), 3)]), 5);
        check(&m, &whole(&m), isa, super::build, &inputs, 1e-5);
    }
}

#[test]
fn operands_of_run_time_agree_with_the_evaluator() {
    let mut g = Gen::new(32);
    let types = [
        (DType::F32, DType::F32, false),
        (DType::F32, DType::F32, false),
        (DType::BF16, DType::BF16, true),
        (DType::U8, DType::I8, false),
        (DType::I32, DType::I32, false),
        (DType::U16, DType::U16, false),
        (DType::F64, DType::F64, false),
    ];
    for seed in 0..60 {
        let (da, db, wide) = g.one_of(&types);
        let op = MatMul { trans_a: g.flip(), trans_b: g.flip(), wide };
        let rank = g.int(0, 2) as usize;
        let batch = g.shape(rank);
        let lead = g.broadcastable(&batch);
        let [m, k, n] = [9, 40, 80].map(|most| g.int(1, most) as usize);
        let symbolic = g.flip();
        let dim = |name: &str, d: usize| if symbolic { Dim::from(name) } else { d.into() };
        let (dm, dk, dn) = (dim("M", m), dim("K", k), dim("N", n));
        let mut a: Vec<Dim> = batch.iter().map(|&d| d.into()).collect();
        let mut b: Vec<Dim> = lead.iter().map(|&d| d.into()).collect();
        a.extend(if op.trans_a { [dk.clone(), dm] } else { [dm, dk.clone()] });
        b.extend(if op.trans_b { [dn, dk] } else { [dk, dn] });
        let m_ = crate::cpu::testing::one_op(op, &[Type::new(da, a), Type::new(db, b)]);
        let env = Bindings::from([("M".into(), m as i64), ("K".into(), k as i64), ("N".into(), n as i64)]);
        check(&m_, &whole(&m_), g.one_of(&Isa::ALL), super::build, &random_inputs(&m_, &env, seed), 1e-5);
    }
}

#[test]
fn long_rows_are_cut_along_k() {
    let base = Case {
        types: (DType::F32, DType::F32),
        wide: false,
        trans_b: false,
        lead: None,
        m: 15,
        k: 1600,
        n: 35,
        symbolic: true,
    };
    run(&base, Isa::V3, 1);
    run(&Case { k: 2050, n: 80, symbolic: false, ..base.clone() }, Isa::V4, 2);
    run(&Case { k: 6150, types: (DType::I8, DType::I8), ..base.clone() }, Isa::V4, 3);
    run(&Case { k: 6400, m: 40, types: (DType::U8, DType::I8), ..base.clone() }, Isa::Amx, 4);
    run(&Case { k: 3204, types: (DType::I8, DType::I8), ..base.clone() }, Isa::V3, 5);
    run(&Case { k: 3600, types: (DType::BF16, DType::BF16), wide: true, ..base }, Isa::Amx, 6);
}

#[cfg(feature = "mlir")]
#[test]
fn compiled_code_agrees_with_the_evaluator() {
    use crate::cpu::testing::{Engine, check_on};
    let mut g = Gen::new(33);
    for (seed, (a, b, wide)) in TYPES.into_iter().enumerate() {
        for (m, k, n, symbolic) in [(13, 65, 50, true), (1, 64, 40, false), (20, 1700, 33, true)] {
            let c = Case { types: (a, b), wide, trans_b: g.flip(), lead: None, m, k, n, symbolic };
            let (module, env) = module(&c, &g.tensor(&c.weight()));
            let inputs = random_inputs(&module, &env, seed as u64);
            for isa in Isa::ALL {
                check_on(Engine::Native, &module, &whole(&module), isa, super::build, &inputs, 1e-5);
            }
        }
    }
}
