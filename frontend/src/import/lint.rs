//! What is legal in a file and still worth a word: what nothing reads, what is there twice, names and numbers that bring trouble elsewhere.

use super::check::short;
use super::loc_of;
use crate::proto::{GraphProto, ModelProto, NodeProto, initializers};
use crate::tensor::Sources;
use foldhash::{HashMap, HashSet};
use tersor_ir::{DType, Diagnostic, Tensor};

/// Equal constants of fewer bytes are not worth a word.
const WORTH: usize = 1024;
/// IR version from which a constant that is also an input can be replaced by whoever runs the model.
const OVERRIDABLE: i64 = 4;

/// Warnings about a model, in linear time.
pub(super) fn lint(model: &ModelProto, sources: &mut Sources) -> Vec<Diagnostic> {
    let g = &*model.graph;
    let mut out = vec![];
    if !model.training_info.is_empty() {
        out.push(Diagnostic::warning("O0107", "the file describes how to train the model; that is ignored"));
    }
    let read = reads(g);
    names(g, &mut out);
    unread(g, &read, &mut out);
    if model.ir_version >= OVERRIDABLE {
        let constants: HashSet<&str> = initializers(g).map(|i| i.name()).collect();
        for i in g.input.iter().filter(|i| constants.contains(i.name.as_str())) {
            let message = format!("input \"{}\" has a default, which is taken for a constant", short(&i.name));
            out.push(Diagnostic::warning("O0105", message).with_help("remove the initializer to keep it an input"));
        }
    }
    weights(g, sources, &mut out);
    out
}

/// The names that nodes and outputs read, those of nested graphs among them.
pub(super) fn reads(g: &GraphProto) -> HashSet<&str> {
    let (mut out, mut graphs) = (HashSet::default(), vec![g]);
    while let Some(g) = graphs.pop() {
        out.extend(g.output.iter().map(|o| o.name.as_str()));
        for n in &g.node {
            out.extend(n.input.iter().map(String::as_str));
            graphs.extend(nested(n));
        }
    }
    out
}

fn nested(n: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    n.attribute.iter().flat_map(|a| a.g.as_ref().into_iter().chain(&a.graphs))
}

/// Names that a terminal, a shell or a file system could take for something else. Results get clean ones.
fn names(g: &GraphProto, out: &mut Vec<Diagnostic>) {
    let values = g.input.iter().chain(&g.output).map(|v| v.name.as_str());
    let nodes = g.node.iter().flat_map(|n| std::iter::once(&n.name).chain(&n.output)).map(String::as_str);
    let all = values.chain(initializers(g).map(|i| i.name())).chain(nodes);
    let strange = |n: &&str| n.chars().any(char::is_control) || n.split(['/', '\\']).any(|part| part == "..");
    let mut seen = HashSet::default();
    for name in all.filter(strange).filter(|n| seen.insert(*n)) {
        let message = format!("the name \"{}\" holds control characters or leads out of a folder", short(name));
        out.push(
            Diagnostic::warning("O0100", message).with_help("it is cleaned wherever it becomes a symbol or a file"),
        );
    }
}

/// Inputs, constants and nodes that no output depends on. Of nodes that only feed each other the last ones are named.
fn unread(g: &GraphProto, read: &HashSet<&str>, out: &mut Vec<Diagnostic>) {
    let constants: HashSet<&str> = initializers(g).map(|i| i.name()).collect();
    for i in g.input.iter().filter(|i| !read.contains(i.name.as_str()) && !constants.contains(i.name.as_str())) {
        out.push(Diagnostic::warning("O0104", format!("nothing reads the input \"{}\"", short(&i.name))));
    }
    for name in initializers(g).map(|i| i.name()).filter(|n| !read.contains(n)) {
        out.push(Diagnostic::warning("O0101", format!("nothing reads the constant \"{}\"", short(name))));
    }
    for n in g.node.iter().filter(|n| !n.output.is_empty() && n.output.iter().all(|o| !read.contains(o.as_str()))) {
        out.push(Diagnostic::warning("O0102", "nothing reads what this node makes").at_loc(&loc_of(n)));
    }
}

/// Constants that are there twice, or that are slow to compute with. Those that cannot be read are the import's to report.
fn weights(g: &GraphProto, sources: &mut Sources, out: &mut Vec<Diagnostic>) {
    let mut first: HashMap<(DType, Vec<usize>, blake3::Hash), &str> = HashMap::default();
    for i in initializers(g) {
        let (Ok(tensor), name) = (sources.initializer(i), i.name()) else { continue };
        if let Some((tiny, all)) = denormals(&tensor) {
            let message = format!("constant \"{}\" has {tiny} denormal elements of {all}", short(name));
            let d = Diagnostic::warning("O0106", message);
            out.push(d.with_help("processors take long for them; set what is below 1.2e-38 to zero"));
        }
        if tensor.bytes().len() < WORTH {
            continue;
        }
        let key = (tensor.dtype(), tensor.shape().to_vec(), blake3::hash(tensor.bytes()));
        match first.get(&key) {
            Some(one) => {
                let (a, b) = (short(name), short(one));
                let message = format!("constants \"{a}\" and \"{b}\" are equal, {} bytes each", tensor.bytes().len());
                out.push(Diagnostic::warning("O0103", message));
            }
            None => {
                first.insert(key, name);
            }
        }
    }
}

/// How many elements are denormal, of how many, where that is one in a thousand or more.
fn denormals(t: &Tensor) -> Option<(usize, usize)> {
    let tiny = |c: &&[u8]| {
        let bits = u32::from_le_bytes([c[0], c[1], c[2], c[3]]) & 0x7fff_ffff;
        bits != 0 && bits < 0x0080_0000
    };
    let n = if t.dtype() == DType::F32 { t.bytes().chunks_exact(4).filter(tiny).count() } else { 0 };
    (n > 0 && n * 1000 >= t.len()).then_some((n, t.len()))
}
