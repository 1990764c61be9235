//! Artifacts with strings: calls of functions, tables, and what damage comes to.

use tersor_host::{Function, Number};
use tersor_runtime::artifact::{Manifest, Symbol, Value, Variant};
use tersor_runtime::program::{Arg, Extents, Host, Place, Program, Step};
use tersor_runtime::{Artifact, ArtifactWriter, DType, Error, Kind, LoadOptions, Model, Tensor};

/// `y = concat(x, "!")`, `n = parse(x)` for `x: str[N]`, before a change of the manifest.
fn artifact(change: impl FnOnce(&mut Manifest)) -> Result<Vec<u8>, Error> {
    let mut writer = ArtifactWriter::in_memory();
    let marks = writer.constant("marks", "", &[1u32, 1].map(u32::to_ne_bytes).concat())?;
    let code = writer.section("code.any", &[0xc3])?;
    let mut e = Extents::new();
    let n = e.symbol(0);
    let (four, eight) = (e.product(&[n], 4), e.product(&[n], 8));
    let mut p = Program::default();
    let x = p.buffer(Place::Input(0), four);
    let marks = p.buffer(Place::Constant(marks), four);
    let y = p.buffer(Place::Output(0), four);
    let parsed = p.buffer(Place::Output(1), eight);
    let concat = Host {
        function: Some(Function::Concat(())),
        args: vec![Arg::read(x), Arg::read(marks), Arg::write(y)],
        elements: vec![n; 3],
    };
    let parse = Host {
        function: Some(Function::Parse(Number::I64 as i32)),
        args: vec![Arg::read(x), Arg::write(parsed)],
        elements: vec![n; 2],
    };
    p.steps = vec![Step::host("/join", concat), Step::host("/parse", parse)];
    let mut manifest = Manifest {
        inputs: vec![Value::new("x", DType::Str, vec![n])],
        outputs: vec![Value::new("y", DType::Str, vec![n]), Value::new("n", DType::I64, vec![n])],
        symbols: vec![Symbol { name: "N".into(), min: 0, max: 2, hint: 2, ..Symbol::default() }],
        extents: e.into_entries(),
        variants: vec![Variant { name: "any".into(), code, program: p, ..Variant::default() }],
        strings: vec!["!".into()],
        ..Manifest::default()
    };
    change(&mut manifest);
    writer.into_bytes(manifest)
}

fn load(change: impl FnOnce(&mut Manifest)) -> Result<Model, Error> {
    Model::from_bytes(&artifact(change)?, &LoadOptions::default())
}

fn words(v: &[&str]) -> Tensor {
    Tensor::from_strings(&[v.len()], v).unwrap()
}

fn strings(t: &Tensor) -> Vec<String> {
    t.view().to_strings().unwrap().unwrap()
}

#[test]
fn runs_have_tables_of_their_own() {
    let mut session = load(|_| {}).unwrap().session(1);
    for i in 100..150 {
        let x = words(&[&i.to_string(), "7"]);
        let y = session.run(&[("x", x.view())]).unwrap();
        assert_eq!(strings(&y[0]), [format!("{i}!"), "7!".into()]);
        assert_eq!(y[1].to_f64().unwrap(), [f64::from(i), 7.0]);
        // Handles are numbered anew for each output.
        assert_eq!(y[0].bytes(), [1u32, 2].map(u32::to_ne_bytes).concat());
    }
    assert_eq!(session.run(&[("x", words(&["", "1"]).view())]).unwrap_err().kind, Kind::Value);
}

#[test]
fn what_is_no_number_is_told() {
    let mut session = load(|_| {}).unwrap().session(1);
    let e = session.run(&[("x", words(&["1", "one"]).view())]).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (Kind::Value, "step /parse: \"one\" is no number"));
    let bad = Tensor::from_bytes(DType::Str, &[1], &5u32.to_ne_bytes()).unwrap();
    let e = session.run(&[("x", bad.view())]).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (Kind::Value, "input x: no string has the handle 5"));
}

#[test]
fn rows_keep_their_strings() {
    let all = words(&["a", "b", "c"]);
    let parts = [all.slice_rows(2, 3).unwrap(), all.slice_rows(0, 2).unwrap(), words(&["c"])];
    assert_eq!(strings(&Tensor::concatenate(&parts).unwrap()), ["c", "a", "b", "c"]);
}

#[test]
fn manifests_that_contradict_themselves() {
    fn host(m: &mut Manifest, step: usize) -> &mut Host {
        match &mut m.variants[0].program.steps[step].action {
            Some(tersor_runtime::program::Action::Host(h)) => h,
            _ => panic!("a call of a function"),
        }
    }
    type Change = fn(&mut Manifest);
    let wrong: [(&str, Change); 8] = [
        ("stands twice", |m| m.strings.push("!".into())),
        ("or is empty", |m| m.strings.push(String::new())),
        ("no such function", |m| host(m, 0).function = None),
        ("operands of text.concat", |m| host(m, 0).args.truncate(1)),
        ("operands of text.parse", |m| host(m, 1).elements.push(0)),
        ("writes what it reads", |m| host(m, 0).args.swap(0, 2)),
        ("there is no extent", |m| host(m, 0).elements[0] = 99),
        ("element type 77", |m| host(m, 1).function = Some(Function::Parse(77))),
    ];
    for (words, change) in wrong {
        let e = load(change).map(drop).unwrap_err();
        assert!(e.kind == Kind::Manifest && e.message.contains(words), "{words}: {e}");
    }
    // Results that are larger than what is there for them.
    let e = load(|m| host(m, 1).elements = vec![1, 2]).and_then(|m| m.session(1).run(&[("x", words(&["1"]).view())]));
    assert_eq!(e.unwrap_err().kind, Kind::Extent);
    assert!(Artifact::from_bytes(&artifact(|_| {}).unwrap()).is_ok());
}
