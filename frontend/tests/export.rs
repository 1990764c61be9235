//! Export: what is written comes back by import with the same meaning, and what ONNX cannot say is refused by name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tersor_frontend::{ExportForm, ExportOptions, export, import, import_bytes};
use tersor_ir::module::Func;
use tersor_ir::testing::{Gen, rel_l2};
use tersor_ir::{Dim, Failure, Module, Op, OpKind, Tensor, Type, interp};

/// A module of one op; operands `constant` says are constants.
fn module(op: Op, operands: &[(Type, Option<Tensor>)]) -> Module {
    let mut m = Module::new("m");
    let mut f = Func::new("main");
    let body = f.body_id();
    let mut values = vec![];
    for (i, (ty, constant)) in operands.iter().enumerate() {
        values.push(match constant {
            None => f.add_param(body, &format!("x{i}"), ty.clone()),
            Some(t) => {
                let c = tersor_ir::constant::Constant::from_tensor(format!("c{i}"), t, Default::default());
                let c = m.add_const(c);
                f.const_value(&m.consts, c)
            }
        });
    }
    f.inputs = f.body().params.iter().map(|&p| f.values[p].name.clone()).collect();
    let n = f.add_node(body, op, &values, "y", Default::default()).unwrap();
    f.body_mut().results = f.nodes[n].results.to_vec();
    f.outputs = f.body().results.iter().map(|&v| f.values[v].name.clone()).collect();
    m.funcs.push(f);
    m
}

fn back(m: &Module, options: &ExportOptions) -> Result<Module, Vec<tersor_ir::Diagnostic>> {
    let written = export(m, options)?;
    match import_bytes(written.model, "m", &Default::default()) {
        Ok(read) => Ok(read.module),
        // An operator that is written and not read.
        Err(e) if e.iter().all(|d| d.failure == Failure::Unsupported) => Err(e),
        Err(e) => panic!("{}\n{}", e[0], tersor_ir::text::print(m)),
    }
}

#[track_caller]
fn same(a: &Module, b: &Module, inputs: &[Tensor]) {
    let (x, y) = (interp::run(a, inputs).unwrap(), interp::run(b, inputs).unwrap());
    assert_eq!(x.len(), y.len());
    for (x, y) in x.iter().zip(&y) {
        let text = || format!("{}\n{}", tersor_ir::text::print(a), tersor_ir::text::print(b));
        assert_eq!(x.ty(), y.ty(), "{}", text());
        // Half-width results are rounded by each of the operators that an op becomes.
        let limit = if x.dtype().is_float() && x.dtype().bits() < 32 { 2e-2 } else { 1e-5 };
        let error = rel_l2(x, y);
        assert!(error <= limit, "{error:e}\n{}", text());
    }
}

fn corners(b: &[f64]) -> [f64; 4] {
    [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
}

/// The positions of numbers in their order.
fn ranked(keys: &[i64]) -> Vec<i64> {
    let mut order: Vec<i64> = (0..keys.len() as i64).collect();
    order.sort_by_key(|&i| keys[i as usize]);
    order
}

/// Every op that ONNX has an operator for, with operands given and with operands stored.
#[test]
fn samples_come_back_with_the_same_meaning() {
    let (mut wrong, mut kinds) = (vec![], std::collections::BTreeMap::new());
    // Of the last two the strings decide extents in ONNX.
    let apart = [OpKind::If, OpKind::Loop, OpKind::Choice, OpKind::Random, OpKind::TextSplit, OpKind::TextNormalize];
    for &kind in OpKind::ALL.iter().filter(|k| !apart.contains(k)) {
        for seed in 0..40 {
            let mut g = Gen::new(seed);
            let (op, types) = kind.sample(&mut g);
            let mut tensors = g.operands(&op, &types);
            // Scales of codes are positive in ONNX.
            if matches!(kind, OpKind::Quant | OpKind::DecodeAffine) {
                let positive: Vec<f64> = tensors[1].to_f64().iter().map(|v| v.abs() + 0.1).collect();
                tensors[1] = Tensor::from_f64(tensors[1].dtype(), tensors[1].shape(), &positive);
            }
            // The last operands are stored in every other module: weights, scales, tables.
            let stored = if seed % 2 == 0 { types.len() } else { types.len().min(1) };
            let stored = if op.decodes() && seed % 2 == 1 { 0 } else { stored };
            let operands: Vec<_> = types
                .iter()
                .zip(&tensors)
                .enumerate()
                .map(|(i, (t, x))| (t.clone(), (i >= stored).then(|| x.clone())))
                .collect();
            let m = module(op, &operands);
            let inputs = &tensors[..stored];
            for form in [ExportForm::Qdq, ExportForm::Plain, ExportForm::NBits, ExportForm::QOperator] {
                let attempt = catch_unwind(AssertUnwindSafe(|| {
                    let b = back(&m, &ExportOptions { form, external: None })?;
                    same(&m, &b, inputs);
                    Ok::<_, Vec<tersor_ir::Diagnostic>>(())
                }));
                match attempt {
                    Ok(Ok(())) => *kinds.entry(format!("{kind:?}")).or_insert(0) += 1,
                    Ok(Err(e)) => assert!(e.iter().all(|d| d.failure == Failure::Unsupported), "{kind:?}: {}", e[0]),
                    Err(_) => wrong.push(format!("{kind:?} {seed}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(kinds.len(), OpKind::ALL.len() - apart.len(), "{kinds:?}");
    assert!(kinds.values().sum::<usize>() > 1500, "{kinds:?}");
}

/// The modules of the passes' cases, and inputs with the typical extents.
/// What import reads as an op is a function for others, which means the same: boxes with corners in order, and orders that name each once.
#[test]
fn functions_mean_their_ops() {
    for seed in 0..40 {
        let mut g = Gen::new(seed);
        let (op, types) = OpKind::Nms.sample(&mut g);
        let mut tensors = g.operands(&op, &types);
        let boxes: Vec<f64> = tensors[0].to_f64().chunks(4).flat_map(corners).collect();
        tensors[0] = Tensor::from_f64(tensors[0].dtype(), tensors[0].shape(), &boxes);
        let n = tensors[1].shape()[2];
        let order: Vec<i64> = tensors[1].to_i64().chunks(n).flat_map(ranked).collect();
        tensors[1] = Tensor::from_i64(tensors[1].dtype(), tensors[1].shape(), &order);
        let m = module(op, &types.into_iter().map(|t| (t, None)).collect::<Vec<_>>());
        let mut model = export(&m, &ExportOptions::default()).unwrap().model;
        // Another domain, of which nothing is known.
        let ours: Vec<usize> = (0..model.len()).filter(|&i| model[i..].starts_with(b"tersor")).collect();
        assert!(ours.len() > 3);
        ours.iter().for_each(|&i| model[i..i + 6].copy_from_slice(b"others"));
        let read = import_bytes(model, "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
        let f = &read.funcs[read.main().unwrap()];
        assert!(f.body().nodes.len() > 20);
        same(&m, &read, &tensors);
    }
}

fn cases() -> Vec<(String, Module, Vec<Tensor>)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/passes");
    let mut out = vec![];
    for folder in std::fs::read_dir(root).unwrap() {
        for entry in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "tir") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let Ok(m) = tersor_ir::text::parse(&text, &Default::default()) else { continue };
            let f = &m.funcs[m.main().unwrap()];
            let mut g = Gen::new(7);
            let inputs = f.body().params.iter().map(|&p| {
                let ty = &f.values[p].ty;
                g.tensor(&Type::new(ty.dtype, ty.shape.iter().map(|d| d.substitute(&m.hints()))))
            });
            let inputs = inputs.collect();
            out.push((path.display().to_string(), m, inputs));
        }
    }
    out
}

#[test]
fn modules_come_back_with_their_interface() {
    let mut written = 0;
    for (path, m, inputs) in cases() {
        let Ok(b) = back(&m, &ExportOptions::default()) else { continue };
        let (f, g) = (&m.funcs[m.main().unwrap()], &b.funcs[b.main().unwrap()]);
        assert_eq!((&f.inputs, &f.outputs), (&g.inputs, &g.outputs), "{path}");
        // Extents that the data decide are named after the nodes that bind them.
        let types = |f: &Func| {
            let bound = f.binders();
            let named = |d: &Dim| d.replace(&|s| bound.contains_key(s).then(|| "bound".into()));
            let all = f.body().params.iter().chain(&f.body().results).map(|&v| &f.values[v].ty);
            all.map(|t| Type::new(t.dtype, t.shape.iter().map(named))).collect::<Vec<_>>()
        };
        assert_eq!(types(f), types(g), "{path}");
        same(&m, &b, &inputs);
        written += 1;
    }
    assert!(written > 60, "{written} cases have an ONNX form");
}

const NET: &str = "module @net {
  symbol N 1..64 hint 4
  symbol T 1..64 hint 3
  const @w : f32[8,4] = rng normal(0, 1) seed 1
  func @main(%x: f32[N,T,8]) -> (%y: f32[N,T,4], %n: i64[]) {
    %f = reshape %x {shape=[N*T,8]} : f32[N*T,8]
    %m = matmul %f, @w : f32[N*T,4]
    %y = reshape %m {shape=[N,T,4]} : f32[N,T,4]
    %n = extent {of=N*T+1} : i64[]
    return %y, %n
  }
}";

#[test]
fn open_extents_and_data_files_come_back() {
    let m = tersor_ir::text::parse(NET, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let x = Gen::new(3).tensor(&Type::new(tersor_ir::DType::F32, [4, 3, 8]));
    same(&m, &back(&m, &ExportOptions::default()).unwrap(), std::slice::from_ref(&x));
    let dir = tempfile::tempdir().unwrap();
    let options = ExportOptions { external: Some(("net.data".into(), 64)), ..Default::default() };
    let written = export(&m, &options).unwrap();
    assert!(written.has_data());
    std::fs::write(dir.path().join("net.onnx"), &written.model).unwrap();
    written.write_data(&mut std::fs::File::create(dir.path().join("net.data")).unwrap()).unwrap();
    let read = import(&dir.path().join("net.onnx"), &Default::default()).unwrap();
    assert_eq!(read.external.len(), 1);
    assert_eq!(read.producer, format!("tersor {}", env!("CARGO_PKG_VERSION")));
    same(&m, &read.module, &[x]);
}

#[test]
fn what_onnx_cannot_say_is_refused_by_name() {
    let mut g = Gen::new(0);
    let (op, types) = OpKind::Choice.sample(&mut g);
    let operands: Vec<_> = types.iter().map(|t| (t.clone(), None)).collect();
    let errors = export(&module(op, &operands), &ExportOptions::default()).unwrap_err();
    assert!(errors[0].code == "O0202" && errors[0].at.as_deref() == Some("%y = choice"), "{}", errors[0]);
}

/// Weights in blocks as ONNX Runtime's operator, which the import takes apart again.
#[test]
fn blocks_become_products_of_few_bits() {
    use tersor_ir::DType::{self, I3, I4, U2, U4, U8};
    let mut g = Gen::new(7);
    for (i, (dtype, group)) in [(U4, 16), (I4, 16), (U2, 32), (U8, 16), (I3, 32)].into_iter().enumerate() {
        for (trans_b, zero) in [(false, true), (true, false), (true, true)] {
            let (k, n) = (40usize, 5usize);
            let blocks = k.div_ceil(group);
            let oriented = |d: DType, depth: usize| Type::new(d, if trans_b { [n, depth] } else { [depth, n] });
            let mut m = Module::new("m");
            let mut f = Func::new("main");
            let body = f.body_id();
            let x = f.add_param(body, "x", Type::new(DType::F32, [3, k]));
            let mut constant = |f: &mut Func, ty: &Type| {
                let t = g.tensor(ty);
                let c = tersor_ir::constant::Constant::from_tensor("c", &t, Default::default());
                let c = m.add_const(c);
                f.const_value(&m.consts, c)
            };
            let mut parts =
                vec![constant(&mut f, &oriented(dtype, k)), constant(&mut f, &oriented(DType::F32, blocks))];
            if zero {
                parts.push(constant(&mut f, &oriented(dtype, blocks)));
            }
            let decode = tersor_ir::ops::DecodeAffine { axis: u8::from(trans_b), group: group as u32 };
            let d = f.add_node(body, decode.into(), &parts, "w", Default::default()).unwrap();
            let w = f.nodes[d].results[0];
            let op = tersor_ir::ops::MatMul { trans_a: false, trans_b, wide: false };
            let y = f.add_node(body, op.into(), &[x, w], "y", Default::default()).unwrap();
            f.body_mut().results = f.nodes[y].results.to_vec();
            (f.inputs, f.outputs) = (vec!["x".into()], vec!["y".into()]);
            m.funcs.push(f);
            let options = ExportOptions { form: ExportForm::NBits, ..Default::default() };
            let written = export(&m, &options).unwrap();
            let holds = |name: &str| written.model.windows(name.len()).any(|w| w == name.as_bytes());
            assert!(holds("MatMulNBits") && !holds("DequantizeLinear"), "{i}");
            let read = import_bytes(written.model.clone(), "m", &Default::default()).unwrap();
            same(&m, &read.module, &[g.tensor(&Type::new(DType::F32, [3, k]))]);
        }
    }
}

/// Rows of codes in the weight's groups are the operator's own; in others they are written as they are computed.
#[test]
fn rounded_rows_become_an_accuracy_level() {
    let text = |group: usize| {
        format!(
            "module @m {{
  const @q : i4[64,5] = rng uniform(-8, 7) seed 1
  const @s : f32[4,5] = rng uniform(0.01, 0.1) seed 2
  func @main(%x: f32[3,64]) -> (%y: f32[3,5], %z: f32[3,5]) {{
    %w = decode.affine @q, @s {{group=16}} : f32[64,5]
    %c, %cs = quant.dynamic %x {{group={group}}} : i8[3,64], f32[3,{}]
    %r = decode.affine %c, %cs {{axis=1, group={group}}} : f32[3,64]
    %y = matmul %r, %w : f32[3,5]
    %z = matmul %x, %w : f32[3,5]
    return %y, %z
  }}
}}",
            64 / group
        )
    };
    for (group, level) in [(16, true), (32, false)] {
        let m = tersor_ir::text::parse(&text(group), &Default::default()).unwrap();
        let options = ExportOptions { form: ExportForm::NBits, ..Default::default() };
        let written = export(&m, &options).unwrap();
        let holds = |name: &str| written.model.windows(name.len()).any(|w| w == name.as_bytes());
        assert_eq!(holds("accuracy_level"), level);
        assert_eq!(holds("DequantizeLinear") || holds("ReduceMax"), !level);
    }
}

/// The product of a layer's inputs is written inside of it, with its bias, and read as it was.
#[test]
fn layers_take_the_product_of_their_inputs_along() {
    let text = "
module @m {
  const @w : f32[8,3] = rng normal(0, 0.5) seed 1
  const @b : f32[8] = rng normal(0, 0.5) seed 2
  const @r : f32[8,2] = rng normal(0, 0.5) seed 3
  const @gw : f32[6,3] = rng normal(0, 0.5) seed 4
  const @gr : f32[6,2] = rng normal(0, 0.5) seed 5
  const @p : f32[2] = rng normal(0, 0.5) seed 6
  func @main(%x: f32[T,B,3], %s: f32[2,B,2], %h: f32[1,B,2]) -> (%y: f32[T,B,2], %z: f32[T,B,2]) {
    %a = matmul %x, @w {trans_b} : f32[T,B,8]
    %g = add %a, @b : f32[T,B,8]
    %y, %last = lstm %g, @r, %s : f32[T,B,2], f32[2,B,2]
    %c = matmul %x, @gw {trans_b} : f32[T,B,6]
    %z, %end = gru %c, @gr, %h, @p {reverse, reset_after} : f32[T,B,2], f32[1,B,2]
    return %y, %z
  }
}";
    let m = tersor_ir::text::parse(text, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let written = export(&m, &ExportOptions::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let says = |name: &str| written.model.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(says("LSTM") && says("GRU") && !says("EyeLike") && !says("MatMul"));
    let again = import_bytes(written.model, "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
    let mut g = Gen::new(3);
    let shapes = [vec![4usize, 2, 3], vec![2, 2, 2], vec![1, 2, 2]];
    let inputs: Vec<Tensor> = shapes.into_iter().map(|s| g.tensor(&Type::new(tersor_ir::DType::F32, s))).collect();
    same(&m, &again, &inputs);
}

/// Products of codes become products of floats between `DequantizeLinear` and `QuantizeLinear`, or operators on codes.
#[test]
fn products_of_codes_have_two_forms() {
    let text = "module @m {
  symbol N 1..8 hint 2
  const @sx : f32[] = [0.02]
  const @zx : u8[] = [9]
  const @sy : f32[] = [0.5]
  const @sz : f32[] = [0.25]
  const @zz : u8[] = [128]
  const @wc : i8[4,3,3,3] = rng uniform(-127, 127) seed 1
  const @sc : f32[4,1,1] = rng uniform(0.0002, 0.002) seed 2
  const @b : f32[4,1,1] = rng normal(0, 5) seed 3
  const @wm : i8[144,5] = rng uniform(-127, 127) seed 4
  const @sm : f32[5] = rng uniform(0.001, 0.01) seed 5
  const @bm : f32[5] = rng normal(0, 1) seed 6
  const @wz : i8[5,5] = rng uniform(-127, 127) seed 7
  const @s1 : f32[] = [0.003]
  func @main(%x: f32[N,3,6,6]) -> (%o: f32[N,5], %z: u8[N,5]) {
    %q = quant %x, @sx {to=u8} : u8[N,3,6,6]
    %i = conv %q, @wc {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : i32[N,4,6,6]
    %f = cast %i {to=f32} : f32[N,4,6,6]
    %m = mul %f, @sc : f32[N,4,6,6]
    %a = add %m, @b : f32[N,4,6,6]
    %r = relu %a : f32[N,4,6,6]
    %c = quant %r, @sy {to=u8} : u8[N,4,6,6]
    %flat = reshape %c {shape=[N,144]} : u8[N,144]
    %j = matmul %flat, @wm : i32[N,5]
    %g = cast %j {to=f32} : f32[N,5]
    %y = mul %g, @sm : f32[N,5]
    %p = quant %y, @sz, @zz {to=u8} : u8[N,5]
    %k = matmul %p, @wz : i32[N,5]
    %h = cast %k {to=f32} : f32[N,5]
    %n = mul %h, @s1 : f32[N,5]
    %o = add %n, @bm : f32[N,5]
    %z = quant %o, @sz, @zz {to=u8} : u8[N,5]
    return %o, %z
  }
}";
    let m = tersor_ir::text::parse(text, &Default::default());
    let m = m.unwrap_or_else(|e| panic!("{}", e[0]));
    let x = Gen::new(5).tensor(&Type::new(tersor_ir::DType::F32, [2, 3, 6, 6]));
    let want = interp::run(&m, std::slice::from_ref(&x)).unwrap();
    let forms = [
        (ExportForm::Qdq, vec![("DequantizeLinear", 6), ("Conv", 1), ("MatMul", 2), ("QuantizeLinear", 4)]),
        (ExportForm::Plain, vec![("DequantizeLinear", 3), ("Conv", 1), ("MatMul", 2), ("QuantizeLinear", 4)]),
        (
            ExportForm::QOperator,
            vec![("QLinearConv", 1), ("QLinearMatMul", 1), ("MatMulInteger", 1), ("QuantizeLinear", 2)],
        ),
    ];
    for (form, operators) in forms {
        let written = export(&m, &ExportOptions { form, external: None }).unwrap_or_else(|e| panic!("{}", e[0]));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &written.model).unwrap();
        let named = tersor_frontend::node_operators(file.path()).unwrap();
        for (op, count) in operators {
            assert_eq!(named.iter().filter(|o| *o == op).count(), count, "{form:?}: {op} in {named:?}");
        }
        let read = import_bytes(written.model, "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
        let got = interp::run(&read, std::slice::from_ref(&x)).unwrap();
        assert!(rel_l2(&got[0], &want[0]) < 1e-6, "{form:?}: {}", rel_l2(&got[0], &want[0]));
        assert_eq!(got[1], want[1], "{form:?}");
    }
}
