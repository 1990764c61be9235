//! Operators whose data decide how many elements they give, against ONNX Runtime, and against plain loops on random operands.

use crate::*;
use proptest::prelude::*;

/// Runs a model of one node on operands that are all inputs.
fn run(op: &str, args: &[Tensor], attrs: &[(&str, Attr)], results: usize) -> Vec<Tensor> {
    let mut m = Model::new(13);
    let names: Vec<String> = (0..args.len()).map(|i| format!("i{i}")).collect();
    let outs: Vec<String> = (0..results).map(|i| format!("o{i}")).collect();
    for (name, t) in names.iter().zip(args) {
        m = m.input(name, &t.ty().to_string());
    }
    let refs = |v: &'static [String]| v.iter().map(String::as_str).collect::<Vec<_>>();
    let (names, outs) = (refs(names.leak()), refs(outs.leak()));
    m = m.node(op, &names, &outs, attrs);
    for o in &outs {
        m = m.untyped_output(o);
    }
    let imported = import_bytes(m.bytes(), "case", &Default::default()).unwrap_or_else(|e| panic!("{op}: {}", e[0]));
    let errors = verify(&imported.module);
    assert!(errors.is_empty(), "{op}: {}", errors[0]);
    interp::run(&imported.module, args).unwrap_or_else(|d| panic!("{op}: {d}"))
}

fn floats(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_f64(F32, shape, values)
}

fn longs(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, shape, values)
}

#[test]
fn places_of_what_is_not_zero() {
    let want =
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 2.0, 3.0, 4.0, 5.0];
    case(13, "NonZero", &[x(F32, &[2, 6])], &[], &[(&[2, 11], &want)]);
    let want = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0];
    case(9, "NonZero", &[x(DType::Bool, &[2, 2, 3])], &[], &[(&[3, 5], &want)]);
    case(
        13,
        "NonZero",
        &[consts(DType::I64, &[2, 2], &[0.0, 3.0, 0.0, -1.0])],
        &[],
        &[(&[2, 2], &[0.0, 1.0, 1.0, 1.0])],
    );
    assert_eq!(run("NonZero", &[longs(&[], &[3])], &[], 1)[0], longs(&[1, 1], &[0]));
    assert_eq!(run("NonZero", &[longs(&[2, 0], &[])], &[], 1)[0], longs(&[2, 0], &[]));
}

#[test]
fn elements_by_a_condition() {
    case(
        11,
        "Compress",
        &[x(F32, &[2, 3]), x(DType::Bool, &[3])],
        &[("axis", 1.into())],
        &[(&[2, 2], &[0.5, -0.5, 0.25, -0.75])],
    );
    case(11, "Compress", &[x(F32, &[2, 3]), x(DType::Bool, &[5])], &[], &[(&[3], &[0.5, -0.5, 0.25])]);
    case(
        9,
        "Compress",
        &[x(F32, &[3, 2]), x(DType::Bool, &[2])],
        &[("axis", (-2).into())],
        &[(&[1, 2], &[-0.5, 1.25])],
    );
}

#[test]
fn each_element_once() {
    let values = [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let at = [0.0, 8.0, 5.0, 2.0, 10.0, 7.0, 4.0, 1.0, 9.0, 6.0, 3.0];
    let inverse =
        [0.0, 7.0, 3.0, 10.0, 6.0, 2.0, 9.0, 5.0, 1.0, 8.0, 4.0, 0.0, 7.0, 3.0, 10.0, 6.0, 2.0, 9.0, 5.0, 1.0, 8.0];
    let counts = [2.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0];
    let want: [Want; 4] = [(&[11], &values), (&[11], &at), (&[21], &inverse), (&[11], &counts)];
    case(11, "Unique", &[x(DType::I64, &[3, 7])], &[], &want);
    let values = [-5.0, 2.0, -2.0, 5.0, 1.0, -3.0, 4.0, 0.0, -4.0, 3.0, -1.0];
    case(11, "Unique", &[x(DType::I64, &[3, 7])], &[("sorted", 0.into())], &[(&[11], &values)]);
}

#[test]
fn each_slice_once() {
    let x = floats(&[4, 3], &[1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 0.0, 5.0, 5.0]);
    let y = run("Unique", &[x], &[("axis", 0.into())], 4);
    assert_eq!(y[0], floats(&[3, 3], &[0.0, 5.0, 5.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0]));
    assert_eq!(y[1..], [longs(&[3], &[3, 1, 0]), longs(&[4], &[2, 1, 2, 0]), longs(&[3], &[1, 1, 2])]);
    let x = floats(&[3, 4], &[2.0, 1.0, 2.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0, 3.0, 0.0, 4.0]);
    let y = run("Unique", &[x], &[("axis", 1.into()), ("sorted", 0.into())], 4);
    assert_eq!(y[0], floats(&[3, 3], &[2.0, 1.0, 1.0, 0.0, 3.0, 4.0, 0.0, 3.0, 4.0]));
    assert_eq!(y[1..], [longs(&[3], &[0, 1, 3]), longs(&[4], &[0, 1, 0, 2]), longs(&[3], &[2, 1, 1])]);
}

/// Six boxes, of which three are almost the first and two almost the fourth; with scores of two classes.
fn boxes() -> (Vec<f64>, Vec<f64>) {
    let at = [0.0, 0.1, -0.1, 10.0, 10.1, 100.0];
    let boxes = at.iter().flat_map(|x| [0.0, *x, 1.0, x + 1.0]).collect();
    (boxes, vec![0.9, 0.75, 0.6, 0.95, 0.5, 0.3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
}

#[test]
fn boxes_that_others_suppress() {
    let (b, s) = boxes();
    let one = |v: f64| floats(&[1], &[v]);
    let nms = |boxes: &Tensor, scores: &Tensor, limit: i64, rest: &[f64], attrs: &[(&str, Attr)]| {
        let mut args = vec![boxes.clone(), scores.clone(), longs(&[1], &[limit])];
        args.extend(rest.iter().map(|&v| one(v)));
        run("NonMaxSuppression", &args, attrs, 1).remove(0)
    };
    let (all, scores) = (floats(&[1, 6, 4], &b), floats(&[1, 2, 6], &s));
    let six = longs(&[6, 3], &[0, 0, 3, 0, 0, 0, 0, 0, 5, 0, 1, 5, 0, 1, 4, 0, 1, 2]);
    assert_eq!(nms(&all, &scores, 3, &[0.5, 0.0], &[]), six);
    let four = longs(&[4, 3], &[0, 0, 3, 0, 0, 0, 0, 1, 5, 0, 1, 4]);
    assert_eq!(nms(&all, &scores, 2, &[0.5, 0.4], &[]), four);
    let centers: Vec<f64> =
        b.chunks(4).flat_map(|c| [(c[0] + c[2]) / 2.0, (c[1] + c[3]) / 2.0, c[2] - c[0], c[3] - c[1]]).collect();
    let centers = floats(&[1, 6, 4], &centers);
    assert_eq!(nms(&centers, &scores, 10, &[0.3], &[("center_point_box", 1.into())]), six);
    let turned = b.chunks(4).flat_map(|c| [c[2], c[3], c[0], c[1]]);
    let pair = floats(&[2, 6, 4], &turned.chain(b.iter().map(|v| v + 3.0)).collect::<Vec<_>>());
    let swapped = [&s[..], &s[6..], &s[..6]].concat();
    let want = [[0, 0, 3], [0, 0, 0], [0, 1, 5], [0, 1, 4], [1, 0, 5], [1, 0, 4], [1, 1, 3], [1, 1, 0]].concat();
    assert_eq!(nms(&pair, &floats(&[2, 2, 6], &swapped), 2, &[0.5], &[]), longs(&[8, 3], &want));
    assert_eq!(run("NonMaxSuppression", &[all, scores], &[], 1)[0], longs(&[0, 3], &[]));
}

#[test]
fn computed_numbers_of_the_smallest() {
    let x = floats(&[2, 5], &[-1.25, 0.5, -0.5, 1.25, 0.25, -0.75, 1.0, 0.0, -1.0, 0.75]);
    let smallest = |k: i64| run("TopK", &[x.clone(), longs(&[1], &[k])], &[("largest", 0.into())], 2);
    assert_eq!(smallest(0)[0], floats(&[2, 0], &[]));
    assert_eq!(smallest(2), [floats(&[2, 2], &[-1.25, -0.5, -1.0, -0.75]), longs(&[2, 2], &[0, 2, 3, 0])]);
    assert_eq!(smallest(5)[1], longs(&[2, 5], &[0, 2, 4, 1, 3, 3, 0, 2, 4, 1]));
}

/// By starts, ends, axes and steps: `Slice` of a ramp of 3 x 4.
#[test]
fn computed_slices() {
    type Slice<'a> = (&'a [i64], &'a [i64], &'a [i64], &'a [i64], Want<'a>);
    let whole = [-1.0, 0.75, -0.25, -1.25, 0.25, -0.75, 1.0, 0.0, -1.25, 0.5, -0.5, 1.25];
    let cases: [Slice; 6] = [
        (&[1], &[3], &[1], &[1], (&[3, 2], &[0.5, -0.5, -0.75, 1.0, 0.75, -0.25])),
        (&[-3], &[100], &[1], &[2], (&[3, 2], &[0.5, 1.25, -0.75, 0.0, 0.75, -1.25])),
        (&[100], &[i64::MIN], &[0], &[-1], (&[3, 4], &whole)),
        (&[2], &[0], &[0], &[-2], (&[1, 4], &whole[..4])),
        (&[3], &[1], &[1], &[1], (&[3, 0], &[])),
        (&[0, -2], &[2, i64::MAX], &[0, 1], &[1, 1], (&[2, 2], &[-0.5, 1.25, 1.0, 0.0])),
    ];
    for (starts, ends, axes, steps, (shape, values)) in cases {
        let m = Model::new(13)
            .input("x", "f32[3,4]")
            .input("starts", &format!("i64[{}]", starts.len()))
            .input("ends", &format!("i64[{}]", starts.len()))
            .constant("axes", &longs(&[axes.len()], axes))
            .constant("steps", &longs(&[steps.len()], steps))
            .node("Slice", &["x", "starts", "ends", "axes", "steps"], &["y"], &[])
            .untyped_output("y");
        let m = import_bytes(m.bytes(), "slice", &Default::default()).unwrap().module;
        let inputs = [ramp(F32, &[3, 4], 0), longs(&[starts.len()], starts), longs(&[ends.len()], ends)];
        assert_eq!(interp::run(&m, &inputs).unwrap(), [floats(shape, values)], "{starts:?} {ends:?}");
    }
}

/// By the extents of three parts: `Split` of a ramp of 3 x 4.
#[test]
fn computed_parts() {
    let m = Model::new(13)
        .input("x", "f32[3,4]")
        .input("sizes", "i64[3]")
        .node("Split", &["x", "sizes"], &["a", "b", "c"], &[("axis", 1.into())])
        .untyped_output("a")
        .untyped_output("b")
        .untyped_output("c");
    let m = import_bytes(m.bytes(), "split", &Default::default()).unwrap().module;
    assert!(verify(&m).is_empty(), "{}", tersor_ir::text::print(&m));
    let run = |sizes: &[i64]| interp::run(&m, &[ramp(F32, &[3, 4], 0), longs(&[3], sizes)]);
    let parts: [Want; 3] = [
        (&[3, 1], &[-1.25, 0.25, -1.0]),
        (&[3, 0], &[]),
        (&[3, 3], &[0.5, -0.5, 1.25, -0.75, 1.0, 0.0, 0.75, -0.25, -1.25]),
    ];
    assert_eq!(run(&[1, 0, 3]).unwrap(), parts.map(|(shape, values)| floats(shape, values)));
    assert!(run(&[5, 0, 0]).is_err());
}

/// What follows has extents over what was selected: the first two of those above 0, the others, and their number.
#[test]
fn extents_over_bound_ones() {
    let m = Model::new(13)
        .input("x", "f32[6]")
        .constant("zero", &floats(&[], &[0.0]))
        .constant("0", &longs(&[1], &[0]))
        .constant("2", &longs(&[1], &[2]))
        .constant("-2", &longs(&[1], &[-2]))
        .constant("100", &longs(&[1], &[100]))
        .node("Greater", &["x", "zero"], &["mask"], &[])
        .node("Compress", &["x", "mask"], &["some"], &[])
        .node("Greater", &["x", "zero"], &["same mask"], &[])
        .node("Compress", &["x", "same mask"], &["again"], &[])
        .node("Add", &["some", "again"], &["twice"], &[])
        .node("Slice", &["twice", "0", "2"], &["two"], &[])
        .node("Slice", &["some", "2", "100"], &["others"], &[])
        .node("Slice", &["some", "-2", "100"], &["last"], &[])
        .node("Shape", &["some"], &["n"], &[])
        .node("Expand", &["zero", "n"], &["zeros"], &[])
        .node("Sub", &["zeros", "some"], &["negative"], &[])
        .untyped_output("two")
        .untyped_output("others")
        .untyped_output("last")
        .untyped_output("n")
        .untyped_output("negative");
    let m = import_bytes(m.bytes(), "extents", &Default::default()).unwrap().module;
    assert!(verify(&m).is_empty(), "{}", tersor_ir::text::print(&m));
    for n in 0..6i64 {
        let x: Vec<f64> = (0..6).map(|i| if i < n { (i + 1) as f64 } else { -1.0 }).collect();
        let y = interp::run(&m, &[floats(&[6], &x)]).unwrap();
        let some = &x[..n as usize];
        let list = |v: &[f64]| floats(&[v.len()], v);
        let (two, others) = some.split_at(some.len().min(2));
        assert_eq!(y[0], list(&two.iter().map(|v| 2.0 * v).collect::<Vec<_>>()));
        assert_eq!(y[1..4], [list(others), list(&some[some.len().saturating_sub(2)..]), longs(&[1], &[n])]);
        assert_eq!(y[4], list(&some.iter().map(|v| -v).collect::<Vec<_>>()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_masks(rows in 1usize..5, columns in 1usize..7, bits in any::<u64>()) {
        let all: Vec<i64> = (0..rows * columns).map(|i| (bits >> i & 1) as i64).collect();
        let places: Vec<usize> = (0..all.len()).filter(|&i| all[i] != 0).collect();
        let x = longs(&[rows, columns], &all);
        let want: Vec<i64> = places.iter().map(|i| (i / columns) as i64)
            .chain(places.iter().map(|i| (i % columns) as i64)).collect();
        prop_assert_eq!(&run("NonZero", &[x], &[], 1)[0], &longs(&[2, places.len()], &want));
        let values: Vec<f64> = (0..all.len()).map(|i| i as f64 * 0.5).collect();
        let mask = Tensor::from_i64(DType::Bool, [all.len()], &all);
        let y = run("Compress", &[floats(&[rows, columns], &values), mask], &[], 1);
        let want: Vec<f64> = places.iter().map(|&i| values[i]).collect();
        prop_assert_eq!(&y[0], &floats(&[want.len()], &want));
    }

    #[test]
    fn random_lists(x in prop::collection::vec(-4i64..4, 1..30), sorted in any::<bool>()) {
        let mut values = x.clone();
        values.sort_unstable();
        values.dedup();
        let first = |v: &i64| x.iter().position(|a| a == v).unwrap();
        if !sorted {
            values.sort_by_key(first);
        }
        let y = run("Unique", &[longs(&[x.len()], &x)], &[("sorted", i64::from(sorted).into())], 4);
        let each = |f: &dyn Fn(&i64) -> i64| longs(&[values.len()], &values.iter().map(f).collect::<Vec<_>>());
        prop_assert_eq!(&y[0], &each(&|v| *v));
        prop_assert_eq!(&y[1], &each(&|v| first(v) as i64));
        let inverse: Vec<i64> = x.iter().map(|a| values.iter().position(|v| v == a).unwrap() as i64).collect();
        prop_assert_eq!(&y[2], &longs(&[x.len()], &inverse));
        prop_assert_eq!(&y[3], &each(&|v| x.iter().filter(|a| *a == v).count() as i64));
    }

    /// Boxes of quarters, so that everything is exact.
    #[test]
    fn random_boxes(
        raw in prop::collection::vec((0i64..12, 0i64..12, 1i64..8, 1i64..8, 0i64..9), 1..20),
        limit in 0i64..6,
        threshold in 0i64..4,
    ) {
        let n = raw.len();
        let b: Vec<[f64; 4]> =
            raw.iter().map(|r| [r.0, r.1, r.0 + r.2, r.1 + r.3].map(|v| v as f64 / 4.0)).collect();
        let scores: Vec<f64> = raw.iter().map(|r| r.4 as f64 / 8.0).collect();
        let (iou, least) = (threshold as f64 / 4.0, 0.2);
        let mut order: Vec<usize> = (0..n).filter(|&i| scores[i] > least).collect();
        order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
        let mut kept: Vec<usize> = vec![];
        for i in order {
            let suppresses = |&j: &usize| {
                let side = |a: usize| (b[i][a + 2].min(b[j][a + 2]) - b[i][a].max(b[j][a])).max(0.0);
                let area = |k: usize| (b[k][2] - b[k][0]) * (b[k][3] - b[k][1]);
                let inside = side(0) * side(1);
                inside > iou * (area(i) + area(j) - inside)
            };
            if (kept.len() as i64) < limit && !kept.iter().any(suppresses) {
                kept.push(i);
            }
        }
        let args = [
            floats(&[1, n, 4], &b.concat()), floats(&[1, 1, n], &scores), longs(&[1], &[limit]),
            floats(&[1], &[iou]), floats(&[1], &[least]),
        ];
        let want: Vec<i64> = kept.iter().flat_map(|&i| [0, 0, i as i64]).collect();
        prop_assert_eq!(&run("NonMaxSuppression", &args, &[], 1)[0], &longs(&[kept.len(), 3], &want));
    }
}

/// Extents that are numbers of the run: up to the limit, and refused without one.
#[test]
fn extents_that_the_run_computes() {
    let m = Model::new(13)
        .input("x", "f32[N]")
        .input("n", "i64[]")
        .constant("0", &longs(&[], &[0]))
        .constant("1", &longs(&[], &[1]))
        .constant("first", &longs(&[1], &[0]))
        .constant("3", &longs(&[1], &[3]))
        .node("Range", &["0", "n", "1"], &["range"], &[])
        .node("Unsqueeze", &["n", "first"], &["list"], &[])
        .node("Concat", &["list", "3"], &["shape"], &[("axis", 0.into())])
        .node("ConstantOfShape", &["shape"], &["zeros"], &[])
        .node("ReduceSum", &["x"], &["sum"], &[])
        .node("Add", &["zeros", "sum"], &["wide"], &[])
        .node("Unsqueeze", &["range", "3b"], &["column"], &[])
        .constant("3b", &longs(&[1], &[1]))
        .node("Cast", &["column"], &["steps"], &[("to", Attr::Int(1))])
        .node("Add", &["wide", "steps"], &["y"], &[])
        .untyped_output("range")
        .untyped_output("y");
    let mut options = tersor_frontend::ImportOptions::default();
    let refused = import_bytes(m.bytes(), "range", &options).unwrap_err();
    assert!(
        refused.iter().all(|d| d.help.as_ref().is_some_and(|h| h.contains("--limit computed_extent="))),
        "{refused:?}"
    );
    options.limits.set("computed_extent", 5).unwrap();
    let m = import_bytes(m.bytes(), "range", &options).unwrap().module;
    assert!(verify(&m).is_empty());
    let x = floats(&[2], &[0.25, 0.5]);
    for n in [0, 1, 5] {
        let got = interp::run(&m, &[x.clone(), longs(&[], &[n])]).unwrap();
        assert_eq!(got[0], longs(&[n as usize], &(0..n).collect::<Vec<_>>()));
        let rows: Vec<f64> = (0..n).flat_map(|i| [0.75 + i as f64; 3]).collect();
        assert_eq!(got[1], floats(&[n as usize, 3], &rows));
    }
    for n in [-1, 6] {
        assert_eq!(interp::run(&m, &[x.clone(), longs(&[], &[n])]).unwrap_err().code, "T0398");
    }
}

#[test]
fn ranges_of_computed_numbers() {
    let range = |dtype: DType, v: [f64; 3]| {
        let ty = tersor_ir::Type::scalar(dtype).to_string();
        let m = Model::new(13).input("a", &ty).input("b", &ty).input("c", &ty);
        let m = m.node("Range", &["a", "b", "c"], &["y"], &[]).untyped_output("y");
        let mut options = tersor_frontend::ImportOptions::default();
        options.limits.set("computed_extent", 8).unwrap();
        let m = import_bytes(m.bytes(), "range", &options).unwrap().module;
        interp::run(&m, &v.map(|v| Tensor::scalar(dtype, v))).map(|y| y[0].to_f64())
    };
    assert_eq!(range(F32, [0.5, 2.0, 0.5]).unwrap(), [0.5, 1.0, 1.5]);
    assert_eq!(range(F32, [2.0, 0.4, -0.5]).unwrap(), [2.0, 1.5, 1.0, 0.5]);
    assert_eq!(range(DType::I64, [10.0, 2.0, -3.0]).unwrap(), [10.0, 7.0, 4.0]);
    assert_eq!(range(DType::I32, [3.0, 3.0, 1.0]).unwrap(), [0.0; 0]);
    assert_eq!(range(DType::I32, [3.0, 1.0, 2.0]).unwrap(), [0.0; 0]);
    assert!(range(DType::I64, [0.0, 9.0, 1.0]).is_err() && range(DType::I64, [0.0, 1.0, 0.0]).is_err());
}
