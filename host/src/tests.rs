//! What the functions give, beside what Python, NumPy and ONNX's reference give.

use super::*;
use proptest::prelude::*;

fn call(f: Function, operands: &[&[u8]], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
    f.prepare()?.call(operands, strings)
}

fn put(strings: &mut Strings, x: &[&str]) -> Vec<u8> {
    x.iter().flat_map(|s| strings.intern(s).unwrap().to_ne_bytes()).collect()
}

fn got(strings: &Strings, bytes: &[u8]) -> Vec<String> {
    strings::handles(bytes).map(|h| strings.get(h).unwrap().to_string()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|c| i64::from_ne_bytes(c.try_into().unwrap())).collect()
}

/// The results that are strings, of one operand of strings.
fn of(f: Function, x: &[&str]) -> Result<(Vec<String>, Vec<i64>)> {
    let mut s = Strings::new();
    let x = put(&mut s, x);
    let y = call(f, &[&x], &mut s)?;
    Ok((got(&s, &y[0]), y.get(1).map_or(vec![], |c| ints(c))))
}

#[test]
fn strings_are_joined() {
    let mut s = Strings::new();
    let (x, y) = (put(&mut s, &["a", "", "語"]), put(&mut s, &["b", "c", ""]));
    let z = call(Function::Concat(()), &[&x, &y], &mut s).unwrap();
    assert_eq!(got(&s, &z[0]), ["ab", "c", "語"]);
    assert!(call(Function::Concat(()), &[&x, &y[4..]], &mut s).is_err());
    assert!(call(Function::Concat(()), &[&x], &mut s).is_err());
}

#[test]
fn strings_that_double_end_at_a_limit() {
    let mut s = Strings::new();
    let mut x = put(&mut s, &[&"x".repeat(1 << 20)]);
    let mut doubled = 0;
    while let Ok(y) = call(Function::Concat(()), &[&x, &x], &mut s) {
        x = y[0].clone();
        doubled += 1;
    }
    assert_eq!(doubled, 6);
}

/// `"…".split(delimiter, most)` in Python.
#[test]
fn strings_are_split_as_in_python() {
    let split = |delimiter: &str, most, x: &[&str]| {
        of(Function::Split(Split { delimiter: delimiter.into(), most, parts: 4 }), x)
    };
    assert_eq!(split(".", None, &["a.b", ""]).unwrap(), (words(&["a", "b", "", "", "", "", "", ""]), vec![2, 1]));
    assert_eq!(split("", None, &["  a  b\t"]).unwrap(), (words(&["a", "b", "", ""]), vec![2]));
    assert_eq!(split("", Some(1), &[" a  b  c "]).unwrap(), (words(&["a", "b  c ", "", ""]), vec![2]));
    assert_eq!(split("", None, &["   "]).unwrap().1, [0]);
    assert_eq!(split("-", Some(1), &["-a-b"]).unwrap().0[..2], ["", "a-b"]);
    assert_eq!(split("-", Some(0), &["a-b"]).unwrap().0[0], "a-b");
    assert!(split("-", None, &["a-b-c-d-e"]).unwrap_err().to_string().contains("5 parts"));
}

fn words(x: &[&str]) -> Vec<String> {
    x.iter().map(|s| s.to_string()).collect()
}

#[test]
fn stop_words_go() {
    let normal = |case: Case, sensitive, stop: &[&str], x: &[&str]| {
        let stopwords = words(stop);
        of(Function::Normalize(Normalize { case: case as i32, sensitive, stopwords }), x).unwrap()
    };
    let x = ["Monday", "monday", "Straße"];
    assert_eq!(normal(Case::Upper, true, &["monday"], &x), (words(&["MONDAY", "STRASSE", ""]), vec![2]));
    assert_eq!(normal(Case::Lower, false, &["MONDAY"], &x), (words(&["straße", "", ""]), vec![1]));
    assert_eq!(normal(Case::Keep, false, &["monday", "straße"], &x), (words(&["", "", ""]), vec![1]));
    assert_eq!(normal(Case::Keep, true, &[], &[]), (vec![], vec![0]));
}

#[test]
fn expressions_match_whole_strings() {
    let mut s = Strings::new();
    let x = put(&mut s, &["www.a.com", "www.a.com.", "a\nb", "日本"]);
    let mut hit = |pattern: &str| call(Function::Match(pattern.into()), &[&x], &mut s).map(|y| y[0].clone());
    assert_eq!(hit(r"www\.\w+\.com").unwrap(), [1, 0, 0, 0]);
    assert_eq!(hit(r"a|\p{Han}+").unwrap(), [0, 0, 0, 1]);
    assert_eq!(hit("a.b").unwrap(), [0, 0, 0, 0]);
    assert_eq!(hit("(?s)a.b").unwrap(), [0, 0, 1, 0]);
    for bad in ["a)|(b", "(", "a{99999}{99999}"] {
        assert!(hit(bad).is_err(), "{bad}");
    }
}

/// `str` of NumPy's scalars.
#[test]
fn numbers_are_written_as_by_numpy() {
    let mut s = Strings::new();
    let mut f64s = |v: &[f64]| {
        let x: Vec<u8> = v.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let y = call(Function::Format(Number::F64 as i32), &[&x], &mut s).unwrap();
        got(&s, &y[0])
    };
    let v =
        [0.0, -0.0, 1.0, 314.15926, 1e16, 9999999999999998.0, 1e-4, 1e-5, -2.5e-7, 1.5e300, f64::NAN, f64::INFINITY];
    let e = "0.0 -0.0 1.0 314.15926 1e+16 9999999999999998.0 0.0001 1e-05 -2.5e-07 1.5e+300 nan inf";
    assert_eq!(f64s(&v).join(" "), e);
    let mut of = |n: Number, x: &[u8]| {
        let y = call(Function::Format(n as i32), &[x], &mut s).unwrap();
        got(&s, &y[0]).join(" ")
    };
    assert_eq!(of(Number::F32, &[0.1f32, 3e38].map(f32::to_ne_bytes).concat()), "0.1 3e+38");
    assert_eq!(
        of(Number::F16, &[0.1f32, 65504.0].map(|v| half::f16::from_f32(v).to_ne_bytes()).concat()),
        "0.1 65500.0"
    );
    assert_eq!(of(Number::Bf16, &[0.1f32, 1.0].map(|v| half::bf16::from_f32(v).to_ne_bytes()).concat()), "0.1 1.0");
    assert_eq!(of(Number::Bool, &[1, 0]), "True False");
    assert_eq!(of(Number::I64, &i64::MIN.to_ne_bytes()), "-9223372036854775808");
    assert_eq!(of(Number::U64, &u64::MAX.to_ne_bytes()), "18446744073709551615");
}

#[test]
fn numbers_are_read() {
    let mut s = Strings::new();
    let x = put(&mut s, &["3.25", "1e-5", "+INF", "-inf", " 1E8 ", "NaN"]);
    let y = call(Function::Parse(Number::F32 as i32), &[&x], &mut s).unwrap();
    let y: Vec<f32> = y[0].chunks_exact(4).map(|c| f32::from_ne_bytes(c.try_into().unwrap())).collect();
    assert_eq!(y[..5], [3.25, 1e-5, f32::INFINITY, f32::NEG_INFINITY, 1e8]);
    assert!(y[5].is_nan());
    let x = put(&mut s, &["-7", "100.5", "1e3"]);
    assert_eq!(ints(&call(Function::Parse(Number::I64 as i32), &[&x], &mut s).unwrap()[0]), [-7, 100, 1000]);
    for bad in ["Hello", "", "1,5", "NaN"] {
        let x = put(&mut s, &[bad]);
        assert!(call(Function::Parse(Number::I64 as i32), &[&x], &mut s).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(v: f64, w: f32, h: u16) {
        let mut s = Strings::new();
        let mut round = |n: Number, x: &[u8]| {
            let y = call(Function::Format(n as i32), &[x], &mut s).unwrap();
            call(Function::Parse(n as i32), &[&y[0]], &mut s).unwrap()[0].clone()
        };
        prop_assert_eq!(round(Number::F64, &v.to_ne_bytes()), v.to_ne_bytes());
        prop_assert_eq!(round(Number::F32, &w.to_ne_bytes()), w.to_ne_bytes());
        if !half::f16::from_bits(h).is_nan() {
            prop_assert_eq!(round(Number::F16, &h.to_ne_bytes()), h.to_ne_bytes());
        }
        if !half::bf16::from_bits(h).is_nan() {
            prop_assert_eq!(round(Number::Bf16, &h.to_ne_bytes()), h.to_ne_bytes());
        }
    }

    #[test]
    fn handles_are_checked(x in prop::collection::vec(any::<u8>(), 0..40)) {
        for f in [Function::Concat(()), Function::Match("a".into()), Function::Parse(0), Function::Format(3)] {
            let mut s = Strings::new();
            let operands = vec![&x[..]; f.signature().0.len()];
            let _ = call(f, &operands, &mut s);
        }
    }
}
