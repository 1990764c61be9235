//! Makes every `tests/**/*.tir` a test of its own, with its snapshot beside it. `cargo test --test files -- quantize/` runs those of one folder;
//! `INSTA_UPDATE=always` writes new snapshots.

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use tersor_ir::OpKind;
use tersor_passes::{PASSES, filetest::run_case};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut cases = vec![];
    collect(&root, &mut cases);
    cases.sort();
    let name = |p: &Path| p.strip_prefix(&root).expect("below").with_extension("").display().to_string();
    let mut trials: Vec<Trial> = cases.iter().cloned().map(|p| Trial::test(name(&p), move || check(&p))).collect();
    let names: Vec<String> = cases.iter().map(|p| name(p)).collect();
    trials.push(Trial::test("every_op_and_pass_has_a_case", move || complete(&names)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "tir") {
            out.push(path);
        }
    }
}

fn check(path: &Path) -> Result<(), Failed> {
    let snapshot = run_case(&std::fs::read_to_string(path)?)?;
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(path.parent().expect("a folder"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(path);
    let stem = path.file_stem().expect("a name").to_string_lossy().to_string();
    settings.bind(|| insta::assert_snapshot!(stem, snapshot));
    Ok(())
}

/// Every op has a folder `ops/<op>`, every pass one `passes/<pass>`, named by what is listed, and no folder is named by anything else.
fn complete(names: &[String]) -> Result<(), Failed> {
    let mut wrong = vec![];
    let folders = |kind: &str| -> Vec<String> {
        let mut all: Vec<String> =
            names.iter().filter_map(|n| n.strip_prefix(kind)?.split_once('/')).map(|n| n.0.to_string()).collect();
        all.dedup();
        all
    };
    let ops: Vec<String> = OpKind::ALL.iter().map(|k| snake(&format!("{k:?}"))).collect();
    let passes: Vec<String> = PASSES.iter().map(|p| p.name.to_string()).collect();
    for (kind, listed) in [("ops/", ops), ("passes/", passes)] {
        let found = folders(kind);
        wrong.extend(listed.iter().filter(|l| !found.contains(l)).map(|l| format!("no case in tests/{kind}{l}/")));
        wrong.extend(found.iter().filter(|l| !listed.contains(l)).map(|l| format!("tests/{kind}{l} is not listed")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// `MatMul` to `matmul`, `ArgReduce` to `arg_reduce`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.replace("MatMul", "Matmul").chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
