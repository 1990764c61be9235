//! The documents agree with the code: generated pages are what the code generates (`TERSOR_BLESS=1` writes them), every op and pass is documented, and what
//! `README.md` and its companions name exists.

use std::path::Path;
use tersor_ir::OpKind;
use tersor_passes::PASSES;

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn generated(path: &str, text: &str) {
    if std::env::var_os("TERSOR_BLESS").is_some() {
        std::fs::create_dir_all(root().join(path).parent().expect("a folder")).expect("a folder to write to");
        std::fs::write(root().join(path), text).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let there = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(there == text, "{path} is out of date; TERSOR_BLESS=1 cargo test --test docs writes it");
}

#[test]
fn ops_page_is_generated() {
    generated("docs/ops.md", &tersor_ir::ops::reference::reference());
}

#[test]
fn passes_page_is_generated() {
    generated("docs/passes.md", &tersor_passes::reference::reference());
}

#[test]
fn operators_page_is_generated() {
    let mut names: Vec<&str> = tersor_frontend::operators().collect();
    names.sort_unstable();
    let text = format!(
        "# ONNX operators\n\nGenerated from the tables in `frontend/src/import/ops`; do not edit. Operators that are imported, in every \
         version that the supported opsets have; those of other domains than `ai.onnx` stand after their domain. A form of one that is not supported is an error that names the node.\n\n{} operators:\n\n- `{}`\n",
        names.len(),
        names.join("`\n- `")
    );
    generated("docs/onnx.md", &text);
}

#[test]
fn ops_and_passes_are_documented() {
    let mut bare = vec![];
    for kind in OpKind::ALL {
        let spec = kind.spec();
        bare.extend(spec.doc.is_empty().then(|| format!("{kind:?}")));
        bare.extend(spec.attrs.iter().filter(|a| a.1.is_empty()).map(|a| format!("{kind:?} attribute {}", a.0)));
    }
    for spec in PASSES {
        bare.extend(spec.doc.is_empty().then(|| spec.name.to_string()));
        bare.extend(
            spec.options.iter().filter(|o| o.doc.is_empty()).map(|o| format!("{} option {}", spec.name, o.name())),
        );
    }
    assert!(bare.is_empty(), "without a doc comment: {}", bare.join(", "));
}

/// The code in a document: what stands between backticks, and the lines of fenced and indented blocks.
fn code(text: &str) -> Vec<String> {
    let mut out: Vec<String> = text.lines().filter(|l| l.starts_with("    ")).map(str::to_string).collect();
    for (i, block) in text.split("```").enumerate() {
        if i % 2 == 1 {
            out.extend(block.lines().skip(1).map(str::to_string));
        } else {
            out.extend(block.split('`').skip(1).step_by(2).map(str::to_string));
        }
    }
    out
}

/// A path of this repository: it starts with a folder or file at the top, and has neither placeholders nor blanks.
fn as_path(word: &str) -> Option<&str> {
    let word = word.trim_start_matches("./").trim_end_matches(['.', ',', ';']);
    let top = word.split('/').next()?;
    let tops = [
        "ir",
        "frontend",
        "passes",
        "backends",
        "runtime",
        "src",
        "tests",
        "examples",
        "docs",
        ".ci",
        ".cargo",
        "Cargo.toml",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    ];
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
    (plain && tops.contains(&top) && (word.contains('/') || word.contains('.'))).then_some(word)
}

#[test]
fn paths_in_documents_exist() {
    let mut missing = vec![];
    for document in DOCUMENTS {
        let text = read(document);
        let (code, links) = (code(&text), text.split("](").skip(1).filter_map(|l| l.split(')').next()));
        let words = code.iter().flat_map(|c| c.split_whitespace()).chain(links);
        missing
            .extend(words.filter_map(as_path).filter(|p| !root().join(p).exists()).map(|p| format!("{document}: {p}")));
    }
    assert!(missing.is_empty(), "named, but not there:\n{}", missing.join("\n"));
}

#[test]
fn commands_in_documents_exist() {
    let commands = read("src/cli/mod.rs");
    let mut sources = String::new();
    for dir in ["src/cli", "runtime/src/cli"] {
        for entry in std::fs::read_dir(root().join(dir)).expect("the command line's sources").flatten() {
            sources += &std::fs::read_to_string(entry.path()).unwrap_or_default();
        }
    }
    let is_command = |word: &str| {
        commands.lines().any(|l| l.starts_with("    ") && l.ends_with(&format!(" {word};")) && !l.contains("mod "))
    };
    let is_flag = |word: &str| {
        let name = word.trim_start_matches("--").split('=').next().unwrap_or_default();
        let field = format!("pub {}:", name.replace('-', "_"));
        matches!(name, "help" | "version")
            || sources.contains(&field)
            || sources.contains(&format!("long = \"{name}\""))
    };
    let (mut unknown, mut found) = (vec![], 0);
    for document in DOCUMENTS {
        for line in code(&read(document)).iter().filter_map(|l| l.trim().strip_prefix("tersor ")) {
            let mut words = line.split_whitespace();
            let command = words.next().unwrap_or_default();
            found += 1;
            unknown.extend((!is_command(command)).then(|| format!("{document}: tersor {command}")));
            unknown.extend(
                words
                    .filter(|w| w.starts_with("--") && !is_flag(w))
                    .map(|w| format!("{document}: tersor {command} {w}")),
            );
        }
    }
    assert!(unknown.is_empty(), "named, but not there:\n{}", unknown.join("\n"));
    assert!(found > 0, "no document shows a command");
}

/// Codes between quotes in sources, without those of tests.
fn codes(path: &Path, out: &mut std::collections::BTreeSet<String>) {
    for e in std::fs::read_dir(path).expect("a folder").flatten() {
        let path = e.path();
        if path.is_dir() {
            codes(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_stem().is_some_and(|s| s != "tests") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let is = |c: &&str| {
                c.len() == 5
                    && c.starts_with(|c: char| c.is_ascii_uppercase())
                    && c[1..].bytes().all(|b| b.is_ascii_digit())
            };
            out.extend(text.split('"').filter(is).map(str::to_string));
        }
    }
}

#[test]
fn every_diagnostic_code_is_explained() {
    let mut used = std::collections::BTreeSet::new();
    for folder in ["host", "ir", "frontend", "passes", "backends", "runtime", "."] {
        codes(&root().join(folder).join("src"), &mut used);
    }
    let page = read("docs/diagnostics.md");
    let told: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("- `")?.split_once("`: ").map(|l| l.0)).collect();
    assert!(told.is_sorted(), "codes are in order");
    let told: std::collections::BTreeSet<String> = told.into_iter().map(str::to_string).collect();
    let missing: Vec<&String> = used.difference(&told).collect();
    let stale: Vec<&String> = told.difference(&used).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/diagnostics.md lacks {missing:?} and has unused {stale:?}");
}
