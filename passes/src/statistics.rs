//! What calibration knows about values: ranges, channel maxima, histograms, a sample.

use std::collections::BTreeMap;
use tersor_ir::Tensor;

/// Statistics of one value over all calibration samples.
#[derive(Clone, Debug, Default)]
pub struct ValueStatistics {
    /// A small part of the value for one input.
    pub sample: Option<Tensor>,
}

/// Statistics by value name.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    values: BTreeMap<String, ValueStatistics>,
}

impl Statistics {
    /// Those of a value.
    pub fn get(&self, name: &str) -> Option<&ValueStatistics> {
        self.values.get(name)
    }
}
