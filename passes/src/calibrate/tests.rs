//! Statistics do not depend on threads or interruptions, Gram matrices are those of plain loops, and files may be anything.

use super::*;
use crate::filetest::seeded_inputs;
use crate::statistics::Estimator;
use proptest::prelude::*;

const MODEL: &str = "module @m {
  symbol N 1..64 hint 3
  const @k : f32[4,2,3,3] = rng normal(0, 0.3) seed 1
  const @one : f32[4,2,1,1] = rng normal(0, 0.3) seed 2
  const @w : f32[36,5] = rng normal(0, 0.3) seed 3
  const @v : f32[36,7] = rng normal(0, 0.3) seed 4
  func @main(%x: f32[N,4,6,6]) -> (%y: f32[N,4,5], %z: f32[N,4,7]) {
    %a = conv %x, @k {strides=[1,1], pads=[1,1,1,1], dilations=[1,1], groups=2} : f32[N,4,6,6]
    %b = conv %x, @one {strides=[1,1], pads=[0,0,0,0], dilations=[1,1], groups=2} : f32[N,4,6,6]
    %c = add %a, %b : f32[N,4,6,6]
    %d = reshape %c {shape=[N,4,36]} : f32[N,4,36]
    %y = matmul %d, @w : f32[N,4,5]
    %z = matmul %d, @v : f32[N,4,7]
    return %y, %z
  }
}";

fn model() -> Module {
    tersor_ir::text::parse(MODEL, &Default::default()).unwrap()
}

fn batches(m: &Module, from: u64, n: u64) -> Vec<Vec<Tensor>> {
    (from..from + n).map(|seed| seeded_inputs(m, seed).unwrap()).collect()
}

fn gathered(m: &Module, batches: &[Vec<Tensor>], threads: usize) -> Statistics {
    let how = Gathering { threads, ..Default::default() };
    calibrate(m, &Tap::all(m).unwrap(), &Interpreter, batches.iter().cloned().map(Ok), how).unwrap()
}

#[test]
fn neither_threads_nor_interruptions_are_seen() {
    let m = model();
    let data = batches(&m, 0, 7);
    let whole = gathered(&m, &data, 1).to_bytes();
    for threads in 2..5 {
        assert_eq!(gathered(&m, &data, threads).to_bytes(), whole);
    }
    for cut in [1, 3, 6] {
        let collector = || Collector::new(&m, &Tap::all(&m).unwrap(), &Interpreter, Gathering::default()).unwrap();
        let mut first = collector();
        data[..cut].iter().for_each(|b| first.add(b).unwrap());
        let file = first.show(Statistics::to_bytes);
        let mut second = collector();
        second.resume(Statistics::from_bytes(&file).unwrap()).unwrap();
        assert_eq!(second.samples(), first.samples());
        data[cut..].iter().for_each(|b| second.add(b).unwrap());
        assert_eq!(second.finish().unwrap().to_bytes(), whole);
        // What was shown is not disturbed.
        data[cut..].iter().for_each(|b| first.add(b).unwrap());
        assert_eq!(first.finish().unwrap().to_bytes(), whole);
    }
}

#[test]
fn parts_merge_to_the_whole() {
    let m = model();
    let (a, b) = (batches(&m, 0, 3), batches(&m, 3, 4));
    let whole = gathered(&m, &[a.clone(), b.clone()].concat(), 2);
    let mut merged = gathered(&m, &a, 1);
    merged.merge(&gathered(&m, &b, 1));
    assert_eq!(merged.samples, whole.samples);
    for ((name, x), (_, y)) in merged.iter().zip(whole.iter()) {
        let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        assert_eq!((x.count, x.min, x.max, &x.absmax, &x.histogram), (y.count, y.min, y.max, &y.absmax, &y.histogram));
        assert!(
            close(&x.sum, &y.sum) && close(&x.abs_sum, &y.abs_sum) && close(&x.square_sum, &y.square_sum),
            "{name}"
        );
        assert!(x.all_grams().count() > 0 && x.all_grams().count() == y.all_grams().count());
        assert!(x.all_grams().zip(y.all_grams()).all(|(a, b)| a.rows == b.rows && close(&a.sum, &b.sum)), "{name}");
    }
}

#[test]
fn gram_matrices_are_those_of_the_rows() {
    let m = model();
    let data = batches(&m, 10, 3);
    let all = gathered(&m, &data, 2);
    let x = all.get("x").unwrap();
    let (kinds, d) = (&x.windows, all.get("d").unwrap());
    // Two convolutions see the input through two kernels; two products share one matrix.
    assert_eq!((x.gram.is_none(), kinds.len(), d.windows.len()), (true, 2, 0));
    for (w, grams) in kinds {
        assert_eq!(grams.len(), 2);
        for (group, g) in grams.iter().enumerate() {
            let mut plain = Gram::new(g.dim);
            data.iter().for_each(|b| w.blocks(&b[0], group, g.dim, 1000, &mut |rows| plain.add(rows)));
            assert_eq!((g.rows, g.dim), (plain.rows, 2 * w.kernel.iter().product::<usize>()));
            assert!(g.sum.iter().zip(&plain.sum).all(|(a, b)| (a - b).abs() < 1e-2), "{w:?}");
        }
    }
    let g = d.gram.as_ref().unwrap();
    assert_eq!((g.dim, g.rows), (36, d.count / 36));
    for (c, s) in d.square_sum.iter().enumerate() {
        assert!((g.sum[c * 37] - s).abs() < 1e-3 * s);
    }
}

#[test]
fn too_much_and_too_little_is_told() {
    let m = model();
    let taps = Tap::all(&m).unwrap();
    let how = Gathering { gram_bytes: 1000, ..Default::default() };
    let refused = Collector::new(&m, &taps, &Interpreter, how).err().unwrap();
    assert_eq!((refused.code, refused.failure), ("Q0107", Failure::Limit));
    let mut c = Collector::new(&m, &taps, &Interpreter, Gathering::default()).unwrap();
    assert_eq!(c.finish().err().unwrap().code, "Q0106");
    let plain: Vec<Tap> = taps.iter().map(|t| Tap::of(t.value)).collect();
    c = Collector::new(&m, &plain, &Interpreter, Gathering::default()).unwrap();
    assert_eq!(c.resume(gathered(&m, &batches(&m, 0, 1), 1)).err().unwrap().code, "Q0110");
    let short = Statistics::warnings(&gathered(&m, &batches(&m, 0, 1), 1));
    assert!(short.iter().any(|d| d.code == "Q0108"), "{short:?}");
}

#[test]
fn rows_that_are_not_finite_are_in_no_gram_matrix() {
    let m = model();
    let mut data = batches(&m, 0, 1).remove(0);
    let shape = data[0].shape().to_vec();
    let mut values = data[0].to_f32();
    values[3] = f32::NAN;
    data[0] = Tensor::from_f32(shape.clone(), &values);
    let s = gathered(&m, &[data], 1);
    let x = s.get("x").unwrap();
    assert_eq!((x.not_finite, x.count), (1, values.len() as u64 - 1));
    assert!(s.iter().flat_map(|(_, v)| v.all_grams()).all(|g| g.sum.iter().all(|v| v.is_finite())));
    assert!(x.windows.iter().all(|(_, g)| g.iter().all(|g| g.rows == 36 * (shape[0] as u64 - 1))));
}

fn file() -> &'static [u8] {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(|| {
        let m = model();
        gathered(&m, &batches(&m, 0, 2), 1).to_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn files_may_be_anything(at in any::<prop::sample::Index>(), word: u64, wide: bool, cut in prop::option::of(any::<prop::sample::Index>())) {
        let mut bytes = file().to_vec();
        let content = bytes.len() - 32;
        // Words are where sizes and counts are; the checksum is right again afterwards.
        let from = at.index(content - 8);
        let n = if wide { 8 } else { 1 };
        bytes[from..from + n].copy_from_slice(&word.to_le_bytes()[..n]);
        let content = cut.map_or(content, |c| c.index(content));
        bytes.truncate(content);
        prop_assert!(Statistics::from_bytes(&bytes).is_err());
        let check = *blake3::hash(&bytes).as_bytes();
        bytes.extend(check);
        if let Ok(mut s) = Statistics::from_bytes(&bytes) {
            for (_, v) in s.iter() {
                for how in [Estimator::MinMax, Estimator::Percentile(99.9), Estimator::Mse, Estimator::Entropy] {
                    v.range(how);
                }
            }
            s.warnings();
            let _ = s.check(&model());
            s.merge(&Statistics::from_bytes(file()).unwrap());
        }
    }
}
