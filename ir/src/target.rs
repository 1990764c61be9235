//! What passes may ask of a target: costs, without knowing any backend.

use crate::dim::Bindings;
use crate::ops::{Op, Work};
use crate::types::Type;

/// A machine, as far as choosing between exact forms needs it.
pub trait Target {
    /// Name, such as `x86-64-v3`.
    fn name(&self) -> &str;
    /// Expected seconds of one execution of an op that stands alone, extents bound to their hints.
    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type], hints: &Bindings) -> f64;
}

/// Runs modules on behalf of passes: compiled code where there is a backend, the interpreter elsewhere.
pub trait Evaluate {
    /// Prepares a module for many runs.
    fn prepare(&self, m: &crate::module::Module) -> crate::diag::Result<Box<dyn Prepared>>;
}

/// A module ready to run.
pub trait Prepared {
    /// Outputs for one set of inputs, in the order of `@main`'s parameters and results.
    fn run(&mut self, inputs: &[crate::tensor::Tensor]) -> crate::diag::Result<Vec<crate::tensor::Tensor>>;
}

/// A description by peak rates, for targets whose kernels were not measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Roofline {
    /// Name.
    pub name: String,
    /// Multiply-adds a second, by operand bits: 32, 16, 8.
    pub madds: [f64; 3],
    /// Elementwise steps a second.
    pub elementwise: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// Seconds to start a kernel.
    pub launch: f64,
}

impl Target for Roofline {
    fn name(&self) -> &str {
        &self.name
    }
    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type], hints: &Bindings) -> f64 {
        let Work { madds, bytes } = op.work(ins, outs);
        let value = |d: crate::dim::Dim| d.eval(hints).unwrap_or(0) as f64;
        let rate = match op {
            Op::MatMul(_) | Op::Conv(_) | Op::Attention(_) => match ins[0].dtype.bits() {
                0..=8 => self.madds[2],
                9..=16 => self.madds[1],
                _ => self.madds[0],
            },
            _ => self.elementwise,
        };
        let bytes = value(bytes);
        if matches!(op, Op::Reshape(_) | Op::Choice(_)) {
            0.0
        } else {
            self.launch + (value(madds) / rate).max(bytes / self.bandwidth)
        }
    }
}
