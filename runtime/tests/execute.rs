//! Artifacts through the whole path: written, read, bound, run on several threads.
#![cfg(target_arch = "x86_64")]

#[allow(dead_code)]
mod common;

use common::{BIAS, artifact, counted, expected, sums, values};
use proptest::prelude::*;
use tersor_runtime::{DType, Kind, LoadOptions, Model, Session, Tensor, TensorView};

fn load(variant: Option<&str>) -> tersor_runtime::Result<Model> {
    Model::from_bytes(&artifact(), &LoadOptions { variant: variant.map(str::to_owned), verify: true })
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.bytes().chunks_exact(4).map(|c| f32::from_ne_bytes(c.try_into().unwrap())).collect()
}

fn check(session: &mut Session, n: usize, t: usize) {
    let (a, b) = (values(n, t, 1), values(n, t, 2));
    let (ta, tb) = (Tensor::from_f32(&[n, t], &a).unwrap(), Tensor::from_f32(&[n, t], &b).unwrap());
    let out = session.run(&[("b", tb.view()), ("a", ta.view())]).unwrap();
    assert_eq!(floats(&out[0]), expected(&a, &b, t));
    assert_eq!(floats(&out[1]), BIAS);
    assert_eq!(out[0].shape(), [n, t]);
}

#[test]
fn results_do_not_depend_on_threads_or_on_shapes_before() {
    let model = load(None).unwrap();
    assert_eq!(model.variant().name, "x86-64");
    for threads in [1, 2, 3] {
        let mut session = model.session(threads);
        for (n, t) in [(1, 1), (64, 1000), (3, 17), (64, 1000), (2, 0), (1, 1), (5, 333)] {
            if t > 0 {
                check(&mut session, n, t);
            }
        }
        for k in 1..20 {
            check(&mut session, k, 40 - k);
        }
        let memory = session.memory();
        assert!(memory.arena >= memory.lower_bound && memory.scratch == 64 * threads as u64);
    }
}

#[test]
fn unaligned_inputs_are_copied() {
    let mut session = load(None).unwrap().session(1);
    let values: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|v| v.to_ne_bytes()).collect();
    let shape = [1, 2];
    let view = |at: usize| TensorView::new(DType::F32, &shape, &values[at..at + 8]);
    let out = session.run(&[("a", view(0)), ("b", view(4))]).unwrap();
    assert_eq!(floats(&out[0]), [6.0, 10.0]);
}

#[test]
fn constants_can_be_replaced() {
    let model = load(None).unwrap();
    let at = model.manifest().constants.iter().position(|c| c.length == BIAS.len() as u64 * 4).unwrap() as u32;
    let mut session = model.session(1);
    let x = Tensor::from_f32(&[1, 3], &[1.0, 2.0, 3.0]).unwrap();
    let bias = |session: &mut Session| floats(&session.run(&[("a", x.view()), ("b", x.view())]).unwrap()[1]);
    assert_eq!(bias(&mut session), BIAS);
    let other: Vec<f32> = BIAS.iter().map(|v| v + 1.0).collect();
    let bytes: Vec<u8> = other.iter().flat_map(|v| v.to_ne_bytes()).collect();
    let bytes = std::sync::Arc::new(tersor_runtime::memory::Aligned::copy_of(&bytes).unwrap());
    session.replace(at, Some(bytes.clone())).unwrap();
    assert_eq!(bias(&mut session), other);
    // Shapes that come later see the replacement too; other sessions do not.
    let wide = Tensor::from_f32(&[2, 3], &[0.0; 6]).unwrap();
    assert_eq!(floats(&session.run(&[("a", wide.view()), ("b", wide.view())]).unwrap()[1]), other);
    assert_eq!(bias(&mut model.session(1)), BIAS);
    session.replace(at, None).unwrap();
    assert_eq!(bias(&mut session), BIAS);
    let short = std::sync::Arc::new(tersor_runtime::memory::Aligned::copy_of(&bytes[..4]).unwrap());
    assert_eq!(session.replace(at, Some(short)).unwrap_err().kind, Kind::Usage);
    assert_eq!(session.replace(99, Some(bytes)).unwrap_err().kind, Kind::Usage);
}

#[test]
fn steps_can_be_observed() {
    let model = load(None).unwrap();
    let mut session = model.session(1);
    let x = Tensor::from_f32(&[1, 3], &[1.0, 2.0, 3.0]).unwrap();
    let inputs = [x.view(), x.view()];
    let mut out = session.prepare(&inputs).unwrap();
    let mut seen = Vec::new();
    session.run_observed(&inputs, &mut out, &mut |i, _| seen.push(i)).unwrap();
    assert_eq!(seen, [0, 1, 2, 3]);
    let names: Vec<_> = session.steps().map(|s| (s.name.to_owned(), s.kernel.to_owned())).collect();
    assert_eq!(names[1], ("/scale".to_owned(), "f32_scale".to_owned()));
    assert_eq!(floats(&out[0]), [6.0, 12.0, 18.0]);
}

#[test]
fn every_wrong_input_has_its_own_error() {
    let model = load(None).unwrap();
    let mut session = model.session(1);
    let f32s = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
    let (good, rank, wide) = (f32s(&[2, 3]), f32s(&[6]), f32s(&[2, 4]));
    let (tall, other) = (f32s(&[65, 3]), Tensor::zeros(DType::F64, &[2, 3]).unwrap());
    let mut fails = |inputs: &[(&str, &Tensor)]| {
        let inputs: Vec<_> = inputs.iter().map(|(n, t)| (*n, t.view())).collect();
        let e = session.run(&inputs).unwrap_err();
        (e.kind, e.message)
    };
    let (kind, message) = fails(&[("a", &good)]);
    assert_eq!((kind, message.as_str()), (Kind::MissingInput, "input b is missing"));
    assert_eq!(fails(&[("a", &good), ("b", &good), ("c", &good)]).0, Kind::UnknownInput);
    assert_eq!(fails(&[("a", &good), ("a", &good), ("b", &good)]).0, Kind::Usage);
    assert_eq!(fails(&[("a", &good), ("b", &rank)]).0, Kind::InputShape);
    let (kind, message) = fails(&[("a", &good), ("b", &other)]);
    assert_eq!((kind, message.as_str()), (Kind::InputType, "input b has type f64, the model takes b f32[N,T]"));
    let (kind, message) = fails(&[("a", &good), ("b", &wide)]);
    assert_eq!((kind, message.as_str()), (Kind::SymbolConflict, "input b says T is 4, input a says 3"));
    let (kind, message) = fails(&[("a", &tall), ("b", &tall)]);
    assert_eq!((kind, message.as_str()), (Kind::SymbolRange, "input a: N is 65, the model was compiled for 1..64"));
    let mut wrong = vec![f32s(&[2, 3])];
    assert_eq!(session.run_into(&[good.view(), good.view()], &mut wrong).unwrap_err().kind, Kind::Usage);
}

#[test]
fn extents_that_a_run_decides() {
    let model = Model::from_bytes(&counted(), &LoadOptions::default()).unwrap();
    let mut session = model.session(2);
    let x = Tensor::from_f32(&[5], &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let count = |n: i64| Tensor::from_bytes(DType::I64, &[], &n.to_ne_bytes()).unwrap();
    let first = count(2);
    let mut out = session.prepare(&[x.view(), x.view(), first.view()]).unwrap();
    assert_eq!(out[0].shape(), [5]);
    // The same outputs serve runs with more and with fewer.
    for n in [2, 5, 0, 3] {
        let c = count(n);
        session.run_into(&[x.view(), x.view(), c.view()], &mut out).unwrap();
        let expected: Vec<f32> = (1..=n).map(|i| (2 * i) as f32).collect();
        assert_eq!((out[0].shape(), floats(&out[0])), (&[n as usize][..], expected));
        assert_eq!(floats(&out[1]), (1..=n).map(|i| (3 * i) as f32).collect::<Vec<_>>());
    }
    for n in [6, -1, i64::MIN] {
        let c = count(n);
        let e = session.run_into(&[x.view(), x.view(), c.view()], &mut out).unwrap_err();
        assert_eq!((e.kind, e.code()), (Kind::Count, "R0209"));
        assert!(e.message.starts_with(&format!("step /count: n, which the data decide, is {n}")), "{e}");
    }
    session.run_into(&[x.view(), x.view(), first.view()], &mut out).unwrap();
    assert_eq!(floats(&out[0]), [2.0, 4.0]);
    let mut small = vec![Tensor::zeros(DType::F32, &[2]).unwrap(), Tensor::zeros(DType::F32, &[2]).unwrap()];
    let e = session.run_into(&[x.view(), x.view(), first.view()], &mut small).unwrap_err();
    assert_eq!(e.kind, Kind::Usage);
}

#[test]
fn variants_are_chosen_by_features_or_by_name() {
    assert_eq!(load(Some("x86-64")).unwrap().variant().name, "x86-64");
    let e = load(Some("future")).err().unwrap();
    assert_eq!((e.kind, e.exit()), (Kind::Variant, 6));
    assert!(e.message.contains("not-yet-invented"), "{e}");
    assert!(load(Some("armv9")).err().unwrap().message.contains("future, x86-64"));
}

#[test]
fn the_same_calls_write_the_same_bytes() {
    assert_eq!(artifact(), artifact());
}

#[test]
fn models_and_sessions_move_between_threads() {
    fn needs<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    needs::<Session>();
    shared::<Model>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn placed_programs_compute_what_they_say(
        raw in prop::collection::vec((0usize..100, 0usize..100), 1..24),
        lengths in prop::collection::vec(0usize..300, 1..4),
        threads in 1usize..3,
    ) {
        let plan: Vec<(usize, usize)> = raw.iter().enumerate().map(|(i, &(a, b))| (a % (i + 2), b % (i + 2))).collect();
        let model = Model::from_bytes(&sums(&plan), &LoadOptions::default()).unwrap();
        let mut session = model.session(threads);
        for n in lengths {
            let (a, b) = (values(n, 1, 1), values(n, 1, 2));
            let (ta, tb) = (Tensor::from_f32(&[n], &a).unwrap(), Tensor::from_f32(&[n], &b).unwrap());
            let mut all = vec![a, b];
            for &(i, j) in &plan {
                let sum = all[i].iter().zip(&all[j]).map(|(x, y)| x + y).collect();
                all.push(sum);
            }
            let out = session.run(&[("a", ta.view()), ("b", tb.view())]).unwrap();
            prop_assert_eq!(&floats(&out[0]), all.last().unwrap());
        }
    }
}
