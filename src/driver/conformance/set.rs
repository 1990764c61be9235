//! Data of one run of a case: tensors by the names that the module's inputs and outputs have.

use crate::driver::data::from_runtime;
use crate::driver::{self, DataSet, Result, file_error, inputs_of, outputs_of, runtime_error};
use std::collections::BTreeMap;
use tersor_frontend::{Kind, MAP, Port};
use tersor_ir::Tensor;
use tersor_runtime::data::pb::{self, Item};

/// Tensors by name; those of a sequence `x` are `x.0`, `x.1` and so on, those of a map `x.keys` and `x.values`.
#[derive(Default)]
pub struct Tensors {
    by_name: BTreeMap<String, Tensor>,
    /// Elements of sequences and optionals, `None` for an optional without one.
    pub lengths: BTreeMap<String, Option<usize>>,
}

/// Inputs and expected outputs.
pub struct Set {
    /// Inputs.
    pub inputs: Tensors,
    /// Expected outputs.
    pub outputs: Tensors,
    files: DataSet,
}

impl Set {
    /// Reads a set for a model of these inputs and outputs. Files without a name of their own belong to the port at their number, as all do where ports are
    /// sequences or optionals.
    pub fn read(files: DataSet, (inputs, outputs): &(Vec<Port>, Vec<Port>)) -> Result<Set> {
        let plain = |ports: &[Port]| ports.iter().all(|p| p.kind == Kind::default());
        let names = |ports: &[Port]| ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let inputs = match plain(inputs) {
            _ if inputs.is_empty() => Tensors::default(),
            true => Tensors::of(names(inputs), inputs_of(&files, &names(inputs))?.into_iter().map(Some)),
            false => Tensors::numbered(&files, "input", inputs)?,
        };
        let outputs = match plain(outputs) {
            true => Tensors::of(names(outputs), outputs_of(&files, &names(outputs))?),
            false => Tensors::numbered(&files, "output", outputs)?,
        };
        Ok(Set { inputs, outputs, files })
    }

    /// An input.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.inputs.get(name).map_err(|()| self.missing("input", name))
    }

    /// What is expected of an output.
    pub fn output(&self, name: &str) -> Result<Tensor> {
        self.outputs.get(name).map_err(|()| self.missing("expected output", name))
    }

    /// Whether as many outputs are expected.
    pub fn outputs_are(&self, count: usize) -> Result<()> {
        let expected = self.outputs.by_name.len();
        if expected == count {
            return Ok(());
        }
        let message = format!("{} outputs, {} holds {expected}", count, self.files.0.display());
        Err(vec![tersor_ir::Diagnostic::error("B0201", message).failure(tersor_ir::Failure::Gate)])
    }

    fn missing(&self, what: &str, name: &str) -> Vec<tersor_ir::Diagnostic> {
        vec![driver::usage(format!("{} holds no {what} {name}", self.files.0.display()))]
    }
}

impl Tensors {
    fn of(names: Vec<String>, tensors: impl IntoIterator<Item = Option<Tensor>>) -> Tensors {
        let by_name = names.into_iter().zip(tensors).filter_map(|(n, t)| Some((n, t?))).collect();
        Tensors { by_name, lengths: BTreeMap::new() }
    }

    fn numbered(files: &DataSet, role: &str, ports: &[Port]) -> Result<Tensors> {
        let mut out = Tensors::default();
        for (i, port) in ports.iter().enumerate() {
            let path = files.0.join(format!("{role}_{i}.pb"));
            let bytes = std::fs::read(&path).map_err(|e| vec![file_error(&path, "read", &e)])?;
            let item = match port.kind {
                Kind { keys: Some(_), sequence: true, .. } => pb::read_maps(&bytes).map(|r| r.1),
                Kind { keys: Some(_), .. } => pb::read_map(&bytes).map(|r| r.1),
                Kind { optional: true, .. } => pb::read_optional(&bytes).map(|r| r.1),
                Kind { sequence: true, .. } => pb::read_sequence(&bytes).map(|r| Item::Sequence(r.1)),
                _ => pb::read(&bytes).map(|r| Item::Tensor(r.1)),
            };
            let item = item.map_err(|e| vec![runtime_error(e.context(path.display()))])?;
            out.insert(port, item).map_err(|d| vec![d])?;
        }
        Ok(out)
    }

    fn insert(&mut self, port: &Port, item: Item) -> tersor_ir::Result<()> {
        let length = match item {
            Item::Tensor(t) => {
                self.by_name.insert(port.name.clone(), from_runtime(t)?);
                Some(1)
            }
            Item::Sequence(all) => {
                let length = all.len();
                for (i, t) in all.into_iter().enumerate() {
                    self.by_name.insert(format!("{}.{i}", port.name), from_runtime(t)?);
                }
                Some(length)
            }
            Item::Map(parts) => {
                for (part, t) in MAP.into_iter().zip(parts) {
                    self.by_name.insert(format!("{}.{part}", port.name), from_runtime(t)?);
                }
                return Ok(());
            }
            Item::Nothing => None,
        };
        if port.kind != Kind::default() {
            self.lengths.insert(port.name.clone(), length);
        }
        Ok(())
    }

    /// Shapes of the elements of sequences, or of all tensors.
    pub fn shapes(&self, sequences: bool) -> BTreeMap<String, Vec<i64>> {
        let of_sequence = |name: &str| {
            name.rsplit_once('.').is_some_and(|(s, i)| i.parse::<usize>().is_ok() && self.lengths.contains_key(s))
        };
        let shape = |t: &Tensor| t.shape().iter().map(|&n| n as i64).collect();
        let wanted = self.by_name.iter().filter(|(name, _)| !sequences || of_sequence(name));
        wanted.map(|(name, t)| (name.clone(), shape(t))).collect()
    }

    fn get(&self, name: &str) -> std::result::Result<Tensor, ()> {
        self.by_name.get(name).cloned().ok_or(())
    }
}
