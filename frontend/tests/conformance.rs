//! Models with test data, through the reference interpreter: every folder under `TERSOR_CONFORMANCE_DIR` that holds `model.onnx` and, unless
//! importing is all there is to test, `test_data_set_0` (ONNX's own backend tests have this layout). With `TERSOR_CONFORMANCE_REFUSE=1` a model that needs something unsupported is counted and no failure.
//! Without the first variable there is nothing to do here; `operators.rs` has the cases that the project carries.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tersor_ir::{Failure, Tensor, interp};

enum Outcome {
    Right,
    Refused(String),
    Wrong(String),
}

fn tensors(dir: &Path, prefix: &str) -> Result<Vec<Tensor>, String> {
    let file = |i: usize| dir.join(format!("{prefix}_{i}.pb"));
    let read = |p: PathBuf| tersor_frontend::read_tensor(&p).map(|t| t.1).map_err(|d| d.to_string());
    (0..).map(file).take_while(|p| p.exists()).map(read).collect()
}

fn check(dir: &Path) -> Outcome {
    let imported = match tersor_frontend::import(&dir.join("model.onnx"), &Default::default()) {
        Ok(imported) => imported,
        Err(e) => {
            let text = e.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n");
            let refused = e.iter().all(|d| d.failure == Failure::Unsupported);
            return if refused { Outcome::Refused(text) } else { Outcome::Wrong(text) };
        }
    };
    if let Some(d) = tersor_ir::verify::verify(&imported.module).first() {
        return Outcome::Wrong(d.to_string());
    }
    let text = tersor_ir::text::print(&imported.module);
    if let Err(e) = tersor_ir::text::parse(&text, &Default::default()) {
        return Outcome::Wrong(format!("as text: {}", e[0]));
    }
    let data = dir.join("test_data_set_0");
    if !data.exists() {
        return Outcome::Right;
    }
    let run = || {
        let got = interp::run(&imported.module, &tensors(&data, "input")?).map_err(|d| d.to_string())?;
        let want = tensors(&data, "output")?;
        if got.len() != want.len() {
            return Err(format!("{} outputs, expected {}", got.len(), want.len()));
        }
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            if got.shape() != want.shape() || got.dtype() != want.dtype() {
                return Err(format!("output {i} is {}, expected {}", got.ty(), want.ty()));
            }
            // Half-width results are rounded after each of the file's operators, which is not always where the ops here round.
            let rtol = if want.dtype().bits() < 32 { 2e-2 } else { 1e-3 };
            let near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 + rtol * b.abs();
            let (a, b) = (got.to_f64(), want.to_f64());
            if let Some(j) = (0..a.len()).find(|&j| !near(a[j], b[j])) {
                return Err(format!("output {i}: element {j} is {}, expected {}", a[j], b[j]));
            }
        }
        Ok(())
    };
    match run() {
        Ok(()) => Outcome::Right,
        Err(e) => Outcome::Wrong(e),
    }
}

#[test]
fn models_give_their_outputs() {
    let Some(root) = std::env::var_os("TERSOR_CONFORMANCE_DIR").map(PathBuf::from) else { return };
    let refusing = std::env::var("TERSOR_CONFORMANCE_REFUSE").is_ok_and(|v| v == "1");
    let mut dirs: Vec<_> = std::fs::read_dir(root).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    dirs.sort();
    let (mut right, mut refused, mut wrong) = (0, 0, 0);
    for dir in dirs.iter().filter(|d| d.join("model.onnx").exists()) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        match catch_unwind(AssertUnwindSafe(|| check(dir))).unwrap_or_else(|_| Outcome::Wrong("panic".into())) {
            Outcome::Right => right += 1,
            Outcome::Refused(text) => {
                refused += 1;
                eprintln!("refused {name}: {text}");
            }
            Outcome::Wrong(text) => {
                wrong += 1;
                eprintln!("wrong {name}: {text}");
            }
        }
    }
    eprintln!("{right} right, {refused} refused, {wrong} wrong");
    assert!(wrong == 0 && (refusing || refused == 0));
}
