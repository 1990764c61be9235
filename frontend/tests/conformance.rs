//! Models with test data, through the reference interpreter: every folder under `TERSOR_CONFORMANCE_DIR` that holds `model.onnx` and `test_data_set_0`.
//! Without the variable there is nothing to do here; the cases that the project carries are tested from its root.

use std::path::{Path, PathBuf};
use tersor_ir::{Tensor, interp};

fn tensors(dir: &Path, prefix: &str) -> Vec<Tensor> {
    let file = |i: usize| dir.join(format!("{prefix}_{i}.pb"));
    (0..)
        .map(file)
        .take_while(|p| p.exists())
        .map(|p| tersor_frontend::read_tensor(&p).unwrap_or_else(|d| panic!("{d}")).1)
        .collect()
}

fn check(dir: &Path) {
    let imported = tersor_frontend::import(&dir.join("model.onnx"), &Default::default());
    let imported =
        imported.unwrap_or_else(|e| panic!("{}", e.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n")));
    let errors = tersor_ir::verify::verify(&imported.module);
    assert!(errors.is_empty(), "{}", errors[0]);
    let data = dir.join("test_data_set_0");
    let got = interp::run(&imported.module, &tensors(&data, "input")).unwrap_or_else(|d| panic!("{d}"));
    for (got, want) in got.iter().zip(tensors(&data, "output")) {
        assert_eq!(got.shape(), want.shape());
        for (a, b) in got.to_f64().iter().zip(want.to_f64()) {
            assert!((a - b).abs() <= 1e-4 + 1e-3 * b.abs(), "{a} is not {b}");
        }
    }
}

#[test]
fn models_give_their_outputs() {
    let Some(root) = std::env::var_os("TERSOR_CONFORMANCE_DIR").map(PathBuf::from) else { return };
    let mut dirs: Vec<_> = std::fs::read_dir(root).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    dirs.sort();
    for dir in dirs.iter().filter(|d| d.join("model.onnx").exists()) {
        eprintln!("{}", dir.display());
        check(dir);
    }
}
