//! Pass manager, exact rules, compression passes.
//!
//! A pass is one file, with a line in [`PASSES`]. Rewrites are exact; proposals offer alternatives at sites, and the manager measures and picks.

#[macro_use]
pub mod declare;
pub mod allocate;
pub mod calibrate;
pub mod choose;
pub mod codes;
pub mod coupling;
pub mod filetest;
pub mod gram;
pub mod manager;
pub mod pipeline;
pub mod propose;
pub mod random;
pub mod reference;
pub mod sample;
pub mod selector;
pub mod solve;
pub mod statistics;
pub mod suggest;

pub mod egraph;
pub mod normalize;
pub mod precision;
pub mod quantize;

use declare::PassSpec;

/// Every pass.
pub const PASSES: &[&PassSpec] =
    &[&normalize::Normalize::SPEC, &egraph::Saturate::SPEC, &quantize::Quantize::SPEC, &precision::Precision::SPEC];
