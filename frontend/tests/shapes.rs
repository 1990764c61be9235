//! Dynamic extents: shape arithmetic disappears, and names that must mean the same extent become one.

use tersor_frontend::testing::Model;
use tersor_frontend::{DimBinding, ImportOptions, Imported, import_bytes};
use tersor_ir::dim::SymbolInfo;
use tersor_ir::{DType, Op, Tensor, interp, verify::verify};

fn read(m: &Model) -> Imported {
    read_with(m, &ImportOptions::default())
}

fn read_with(m: &Model, options: &ImportOptions) -> Imported {
    let i = import_bytes(m.bytes(), "shapes", options).unwrap_or_else(|e| panic!("{}", e[0]));
    let errors = verify(&i.module);
    assert!(errors.is_empty(), "{}", errors[0]);
    let text = tersor_ir::text::print(&i.module);
    let again = tersor_ir::text::parse(&text, &Default::default()).unwrap_or_else(|e| panic!("{}\n{text}", e[0]));
    assert_eq!(tersor_ir::text::print(&again), text);
    i
}

fn ops(i: &Imported) -> Vec<&'static str> {
    let f = &i.module.funcs[i.module.main().unwrap()];
    f.live_nodes().iter().map(|&n| f.nodes[n].op.mnemonic()).collect()
}

fn result(i: &Imported, at: usize) -> String {
    let f = &i.module.funcs[i.module.main().unwrap()];
    f.values[f.body().results[at]].ty.to_string()
}

fn numbers(v: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, [v.len()], v)
}

fn floats(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, &(0..shape.iter().product()).map(|i| i as f32).collect::<Vec<_>>())
}

/// `[batch, seq, 12]` to heads and back, as the TorchScript exporter writes it.
#[test]
fn an_exporters_shape_arithmetic_disappears() {
    let scalar = |v: i64| Tensor::from_i64(DType::I64, [], &[v]);
    let m = Model::new(17)
        .input("x", "f32[batch,seq,12]")
        .constant("zero", &scalar(0))
        .constant("one", &scalar(1))
        .constant("two", &scalar(2))
        .constant("four", &numbers(&[4]))
        .constant("axis", &numbers(&[0]))
        .node("Shape", &["x"], &["s"], &[])
        .node("Gather", &["s", "zero"], &["b"], &[])
        .node("Gather", &["s", "one"], &["t"], &[])
        .node("Gather", &["s", "two"], &["w"], &[])
        .node("Div", &["w", "four"], &["d"], &[])
        .node("Cast", &["d"], &["d32"], &[("to", 6.into())])
        .node("Cast", &["d32"], &["d64"], &[("to", 7.into())])
        .node("Unsqueeze", &["b", "axis"], &["b1"], &[])
        .node("Unsqueeze", &["t", "axis"], &["t1"], &[])
        .node("Concat", &["b1", "t1", "four", "d64"], &["split"], &[("axis", 0.into())])
        .node("Reshape", &["x", "split"], &["heads"], &[])
        .node("Transpose", &["heads"], &["moved"], &[("perm", [0, 2, 1, 3].into())])
        .node("Mul", &["b", "t"], &["bt"], &[])
        .node("Unsqueeze", &["bt", "axis"], &["bt1"], &[])
        .constant("rest", &numbers(&[-1]))
        .node("Concat", &["bt1", "rest"], &["flat"], &[("axis", 0.into())])
        .node("Reshape", &["moved", "flat"], &["y"], &[])
        .output("y", "f32[_,12]");
    let i = read(&m);
    assert_eq!(ops(&i), ["reshape", "transpose", "reshape"]);
    assert_eq!(result(&i, 0), "f32[batch*seq,12]");
    let y = interp::run(&i.module, &[floats(&[2, 3, 12])]).unwrap().remove(0);
    assert_eq!(y.shape(), [6, 12]);
    assert_eq!(y.to_f32()[..6], [0.0, 1.0, 2.0, 12.0, 13.0, 14.0]);
}

#[test]
fn ranges_and_extents_as_numbers() {
    let scalar = |v: i64| Tensor::from_i64(DType::I64, [], &[v]);
    let m = Model::new(17)
        .input("x", "f32[N,2]")
        .constant("zero", &scalar(0))
        .constant("one", &scalar(1))
        .node("Shape", &["x"], &["s"], &[])
        .node("Gather", &["s", "zero"], &["n"], &[])
        .node("Range", &["zero", "n", "one"], &["ids"], &[])
        .node("Cast", &["ids"], &["ids32"], &[("to", 1.into())])
        .node("Cast", &["n"], &["nf"], &[("to", 1.into())])
        .node("Div", &["ids32", "nf"], &["y"], &[])
        .output("y", "f32[N]");
    let i = read(&m);
    assert!(ops(&i).contains(&"iota") && ops(&i).contains(&"extent"));
    let y = interp::run(&i.module, &[floats(&[4, 2])]).unwrap().remove(0);
    assert_eq!(y.to_f32(), [0.0, 0.25, 0.5, 0.75]);
}

#[test]
fn names_that_must_be_equal_become_one() {
    // A mask over `total` that only fits a cache of `past` with `seq` new entries.
    let m = Model::new(17)
        .input("x", "f32[batch,seq]")
        .input("cache", "f32[batch,past]")
        .input("mask", "f32[N,total]")
        .node("Concat", &["cache", "x"], &["all"], &[("axis", 1.into())])
        .node("Add", &["all", "mask"], &["y"], &[])
        .output("y", "f32[batch,_]");
    let i = read(&m);
    assert_eq!(result(&i, 0), "f32[batch,past+seq]");
    assert_eq!(i.module.symbols.keys().map(|s| &**s).collect::<Vec<_>>(), ["batch", "past", "seq"]);
    assert!(i.notes.iter().any(|n| n.message.contains("total is taken to be")), "{:?}", i.notes);
    let run = |shapes: [[usize; 2]; 3]| interp::run(&i.module, &shapes.map(|s| floats(&s)));
    assert_eq!(run([[1, 2], [1, 3], [1, 5]]).unwrap()[0].to_f32(), [0.0, 2.0, 4.0, 3.0, 5.0]);
    assert!(run([[1, 2], [1, 3], [1, 6]]).is_err());
    // A batch that the file fixes further down.
    let m = Model::new(17)
        .input("x", "f32[batch,4]")
        .constant("shape", &numbers(&[1, 2, 2]))
        .node("Reshape", &["x", "shape"], &["y"], &[])
        .output("y", "f32[1,2,2]");
    assert_eq!(result(&read(&m), 0), "f32[1,2,2]");
    // What cannot be equal is an error.
    let m = Model::new(17)
        .input("x", "f32[N]")
        .node("Concat", &["x", "x"], &["xx"], &[("axis", 0.into())])
        .node("Add", &["x", "xx"], &["y"], &[])
        .output("y", "f32[_]");
    let e = import_bytes(m.bytes(), "t", &Default::default()).unwrap_err();
    assert!(e.len() == 1 && e[0].message.contains("do not broadcast"), "{e:?}");
}

#[test]
fn options_bind_extents() {
    let m = Model::new(17).input("x", "f32[a-b,a_b,_]").node("Relu", &["x"], &["y"], &[]).output("y", "f32[_,_,_]");
    let i = read(&m);
    assert_eq!(result(&i, 0), "f32[a_b,a_b_2,x.2]");
    let range = SymbolInfo { min: 1, max: 8, hint: 4 };
    let dims = [("a_b".into(), DimBinding::Fixed(3)), ("x.2".into(), DimBinding::Range(range))].into();
    let i = read_with(&m, &ImportOptions { dims, ..Default::default() });
    assert_eq!(result(&i, 0), "f32[3,a_b_2,x.2]");
    assert_eq!(i.module.symbols["x.2"], range);
    let shapes = [("x".into(), vec![1, 2, 3])].into();
    let i = read_with(&m, &ImportOptions { shapes, ..Default::default() });
    assert_eq!(result(&i, 0), "f32[1,2,3]");
    for options in [
        ImportOptions { dims: [("zzz".into(), DimBinding::Fixed(3))].into(), ..Default::default() },
        ImportOptions { shapes: [("zzz".into(), vec![1])].into(), ..Default::default() },
    ] {
        let e = import_bytes(m.bytes(), "t", &options).unwrap_err();
        assert_eq!(e[0].failure, tersor_ir::Failure::Usage);
    }
}

#[test]
fn unknown_extents_have_names_of_their_own() {
    let named = |name: &[u8; 2]| {
        let m = Model::new(17).input("x", "f32[H_,H_,-1]").node("Relu", &["x"], &["y"], &[]).output("y", "f32[_]");
        let mut bytes = m.bytes();
        for at in 0..bytes.len() - 1 {
            if bytes[at..].starts_with(b"H_") {
                bytes[at..at + 2].copy_from_slice(name);
            }
        }
        result(&import_bytes(bytes, "unknown", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])), 0)
    };
    assert_eq!(named(b"W_"), "f32[W_,W_,x.2]");
    assert_eq!(named(b"??"), "f32[x.0,x.1,x.2]");
}

#[test]
fn multiples_make_pyramids_fit() {
    // What is pooled and doubled has even extents.
    let m = Model::new(17)
        .input("x", "f32[N,1,H,W]")
        .node(
            "MaxPool",
            &["x"],
            &["p"],
            &[("kernel_shape", [3, 3].into()), ("strides", [2, 2].into()), ("pads", [1, 1, 1, 1].into())],
        )
        .constant("scales", &Tensor::from_f32([4], &[1.0, 1.0, 2.0, 2.0]))
        .node("Resize", &["p", "", "scales"], &["r"], &[("mode", "nearest".into())])
        .node("Add", &["x", "r"], &["y"], &[])
        .output("y", "f32[_,_,_,_]");
    let with = |dims: &[(&str, DimBinding)]| ImportOptions {
        dims: dims.iter().map(|(n, d)| (n.to_string(), d.clone())).collect(),
        ..Default::default()
    };
    let twice = |of: &str| DimBinding::Multiple(2, of.into());
    let e = import_bytes(m.bytes(), "pyramid", &Default::default()).unwrap_err();
    assert_eq!((e.len(), e[0].failure), (1, tersor_ir::Failure::Unsupported), "{}", e[0]);
    assert!(e[0].to_string().contains("--dim"), "{}", e[0]);
    let range = SymbolInfo { min: 1, max: 8, hint: 4 };
    let i = read_with(&m, &with(&[("H", twice("h")), ("W", twice("w")), ("h", DimBinding::Range(range))]));
    assert_eq!(result(&i, 0), "f32[N,1,2*h,2*w]");
    assert_eq!(i.module.symbols["h"], range);
    let y = interp::run(&i.module, &[floats(&[1, 1, 2, 4])]).unwrap().remove(0);
    assert_eq!(y.to_f32(), [5.0, 6.0, 9.0, 10.0, 9.0, 10.0, 13.0, 14.0]);
    assert!(interp::run(&i.module, &[floats(&[1, 1, 3, 4])]).is_err());
    assert!(interp::run(&i.module, &[floats(&[1, 1, 18, 4])]).is_err(), "9 is above the bound");
    let e = import_bytes(m.bytes(), "pyramid", &with(&[("H", twice("W")), ("W", twice("H"))])).unwrap_err();
    assert_eq!(e[0].failure, tersor_ir::Failure::Usage, "{}", e[0]);
}

#[test]
fn tracing_noise_disappears_and_names_stay() {
    let m = Model::new(17)
        .input("/in:0", "f32[N,4]")
        .constant("perm", &numbers(&[0, -1]))
        .node("Identity", &["/in:0"], &["a"], &[])
        .node("Dropout", &["a"], &["b", "mask"], &[])
        .node("Cast", &["b"], &["c"], &[("to", 1.into())])
        .node("Reshape", &["c", "perm"], &["d"], &[])
        .node("Transpose", &["d"], &["e"], &[("perm", [0, 1].into())])
        .node("Relu", &["e"], &["f"], &[])
        .node("Exp", &["f"], &["unused"], &[])
        .output("f", "f32[N,4]")
        .output("a", "f32[N,4]");
    let i = read(&m);
    assert_eq!(ops(&i), ["relu"]);
    let f = &i.module.funcs[i.module.main().unwrap()];
    assert_eq!((&*f.inputs[0], &*f.outputs[0], &*f.outputs[1]), ("/in:0", "f", "a"));
    assert_eq!(&*f.values[f.body().params[0]].name, "in_0");
    assert_eq!(f.nodes[f.body().nodes[0]].loc.onnx_node(), Some("n_f"));
}

#[test]
fn lies_and_strange_weights_are_warned_of() {
    let m = Model::new(17)
        .input("x", "f32[N,3]")
        .constant("w", &Tensor::from_f32([3], &[1.0, f32::NAN, f32::INFINITY]))
        .node("Add", &["x", "w"], &["y"], &[])
        .output("y", "f32[N,4]");
    let text: Vec<String> = read(&m).notes.iter().map(|d| d.to_string()).collect();
    assert!(text.len() == 2 && text[0].contains("\"w\"") && text[1].contains("[N,4], it is f32[N,3]"), "{text:?}");
    let m = Model::new(17).input("x", "f32[N]").node("Relu", &["x"], &["y"], &[]).output("y", "i64[N]");
    let e = import_bytes(m.bytes(), "t", &Default::default()).unwrap_err();
    assert!(e[0].message.contains("declared as i64, it is f32"), "{e:?}");
}

#[test]
fn nearest_resizing_of_unknown_extents_repeats() {
    let m = Model::new(13)
        .input("x", "f32[1,1,H,2]")
        .constant("scales", &Tensor::from_f32([4], &[1.0, 1.0, 2.0, 2.0]))
        .node(
            "Resize",
            &["x", "", "scales"],
            &["y"],
            &[("coordinate_transformation_mode", "asymmetric".into()), ("nearest_mode", "floor".into())],
        )
        .output("y", "f32[1,1,_,4]");
    let i = read(&m);
    assert_eq!(result(&i, 0), "f32[1,1,2*H,4]");
    let y = interp::run(&i.module, &[floats(&[1, 1, 2, 2])]).unwrap().remove(0);
    assert_eq!(y.to_f32(), [0., 0., 1., 1., 0., 0., 1., 1., 2., 2., 3., 3., 2., 2., 3., 3.]);
}

#[test]
fn chains_take_linear_time() {
    let mut m = Model::new(17).input("x0", "f32[N,4]").constant("c", &floats(&[4]));
    for k in 0..30_000 {
        let (a, b) = (format!("x{k}"), format!("x{}", k + 1));
        m = m.node("Add", &[&a, "c"], &[&b], &[]);
    }
    let start = std::time::Instant::now();
    let m = m.output("x30000", "f32[N,4]");
    let i = read(&m);
    assert_eq!(i.nodes, 30_000);
    // Quadratic would be minutes.
    assert!(start.elapsed().as_secs() < 20);
    let f = &i.module.funcs[i.module.main().unwrap()];
    assert!(f.live_nodes().iter().all(|&n| matches!(f.nodes[n].op, Op::Binary(_))));
}

/// `repeat_interleave` as the tracing exporter writes it: the repeats are a list with one item of its own.
#[test]
fn repeats_from_a_list_with_one_item_of_its_own() {
    let m = Model::new(17)
        .input("x", "f32[B,2,1]")
        .constant("axis", &numbers(&[1]))
        .constant("three", &Tensor::from_i64(DType::I64, [], &[3]))
        .constant("one", &numbers(&[1]))
        .constant("zero", &Tensor::from_i64(DType::I64, [], &[0]))
        .node("Shape", &["x"], &["shape"], &[])
        .node("Gather", &["shape", "zero"], &["b"], &[("axis", 0.into())])
        .constant("all", &numbers(&[-1]))
        .node("Reshape", &["b", "all"], &["times"], &[])
        .node("Concat", &["one", "times"], &["values"], &[("axis", 0.into())])
        .node("OneHot", &["axis", "three", "values"], &["hot"], &[])
        .node("Reshape", &["hot", "all"], &["repeats"], &[])
        .node("Tile", &["x", "repeats"], &["y"], &[])
        .untyped_output("y");
    assert_eq!(result(&read(&m), 0), "f32[B,2*B,1]");
}

/// How much place a cache has beyond the keys that are in it does not matter; with a total length, it stays as it is.
#[test]
fn a_cache_of_any_extent() {
    let m = Model::new(17)
        .input("qkv", "f32[B,1,32]")
        .input("keys", "f32[B,1,P,8]")
        .input("values", "f32[B,1,P,8]")
        .input("last", "i32[B]")
        .input("mask", "i64[B,T]")
        .constant("one", &numbers(&[1]))
        .node("Shape", &["mask"], &["shape"], &[])
        .node("Gather", &["shape", "one"], &["t"], &[])
        .node("Cast", &["t"], &["total"], &[("to", 6.into())])
        .node(
            "com.microsoft:GroupQueryAttention",
            &["qkv", "", "", "keys", "values", "last", "total"],
            &["y", "k", "v"],
            &[("num_heads", 2.into()), ("kv_num_heads", 1.into())],
        )
        .untyped_output("y")
        .untyped_output("k");
    let i = read(&m);
    assert_eq!([result(&i, 0), result(&i, 1)], ["f32[B,1,16]", "f32[B,1,max(P,T),8]"]);
    let run = |place: usize| {
        let qkv = Tensor::from_f32([2, 1, 32], &(0..64).map(|i| ((i * 7) % 11) as f32 * 0.1).collect::<Vec<_>>());
        let row = |i: usize| {
            if i / 8 % place < 2 { ((i / (8 * place) * 16 + i % (8 * place)) % 13) as f32 } else { f32::NAN }
        };
        let cache = Tensor::from_f32([2, 1, place, 8], &(0..16 * place).map(row).collect::<Vec<_>>());
        let last = Tensor::from_i64(DType::I32, [2], &[2, 1]);
        let mask = Tensor::from_i64(DType::I64, [2, 3], &[1; 6]);
        let r = interp::run(&i.module, &[qkv, cache.clone(), cache, last, mask]).unwrap();
        (r[0].to_f64(), r[1].shape()[2])
    };
    let (short, long) = (run(2), run(6));
    assert_eq!([short.1, long.1], [3, 6]);
    assert!(short.0.iter().all(|y| y.is_finite()));
    assert_eq!(short.0, long.0);
}
