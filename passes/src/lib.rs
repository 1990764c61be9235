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
pub mod family;
pub mod filetest;
pub mod gram;
pub mod inputs;
mod integers;
pub mod layer;
pub mod manager;
pub(crate) mod measure;
pub mod parallel;
pub mod patches;
pub mod permute;
pub mod pipeline;
pub mod propose;
pub mod random;
pub mod reference;
pub mod sample;
pub mod selector;
pub(crate) mod sequential;
pub mod solve;
pub mod statistics;
pub mod suggest;
pub mod weights;

pub mod activations;
pub mod awq;
pub mod codebook;
pub mod compensate;
pub mod debias;
pub mod drop;
pub mod egraph;
pub mod embedding;
pub mod gptq;
pub mod hqq;
pub mod lowrank;
pub mod merge;
pub mod microscale;
pub mod normalize;
pub mod power;
pub mod precision;
pub mod prune;
pub mod quantize;
pub mod rotate;
pub mod smooth;
pub mod sparsify;

use declare::PassSpec;

/// Every pass.
pub const PASSES: &[&PassSpec] = &[
    &normalize::Normalize::SPEC,
    &egraph::Saturate::SPEC,
    &merge::Merge::SPEC,
    &smooth::Smooth::SPEC,
    &permute::Permute::SPEC,
    &rotate::Rotate::SPEC,
    &quantize::Quantize::SPEC,
    &gptq::Gptq::SPEC,
    &awq::Awq::SPEC,
    &hqq::Hqq::SPEC,
    &codebook::Codebook::SPEC,
    &microscale::Microscale::SPEC,
    &power::Power::SPEC,
    &sparsify::Sparsify::SPEC,
    &precision::Precision::SPEC,
    &activations::Activations::SPEC,
    &lowrank::LowRank::SPEC,
    &embedding::Embedding::SPEC,
    &compensate::Compensate::SPEC,
    &debias::Debias::SPEC,
    &drop::Drop::SPEC,
    &prune::Prune::SPEC,
];
