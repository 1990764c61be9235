//! The synthetic layers on which methods are compared: 128 outputs, 256 inputs, 2048 rows `x = z diag(σ) Qᵀ` with `z` standard normal and `Q` random orthogonal.

use super::Mat;
use crate::gram::Gram;
use std::sync::OnceLock;
use tersor_ir::constant::SplitMix;

/// Inputs.
pub const INPUTS: usize = 256;
/// Outputs.
pub const OUTPUTS: usize = 128;
/// Rows.
pub const ROWS: usize = 2048;

/// A kind of layer.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Kind {
    /// Inputs without correlation.
    Iso,
    /// `σ_k ~ k^-0.75`, of unit mean square.
    S1,
    /// As `S1`, with 8 random channels 20 times as large.
    S2,
    /// As `S1`, with 4 random channels 100 times as large.
    S3,
}

/// A layer and its inputs.
pub struct Problem {
    /// The weight.
    pub w: Mat,
    /// The inputs.
    pub x: Mat,
    /// Their Gram matrix.
    pub gram: Gram,
}

/// Standard normal elements.
pub fn normal(rows: usize, cols: usize, g: &mut SplitMix) -> Mat {
    Mat::from_fn(rows, cols, |_, _| g.normal())
}

/// Elements of Student's t distribution with 4 degrees of freedom.
pub fn heavy(rows: usize, cols: usize, g: &mut SplitMix) -> Mat {
    let mut one = || g.normal() / ((0..4).map(|_| g.normal().powi(2)).sum::<f64>() / 4.0).sqrt();
    Mat::from_fn(rows, cols, |_, _| one())
}

impl Problem {
    /// The layer of that seed.
    pub fn new(kind: Kind, seed: u64) -> Problem {
        Problem::sized(kind, seed, OUTPUTS, INPUTS, ROWS)
    }
    /// A layer of other extents.
    pub fn sized(kind: Kind, seed: u64, outputs: usize, inputs: usize, rows: usize) -> Problem {
        let mut g = SplitMix(seed);
        let mut x = normal(rows, inputs, &mut g);
        if kind != Kind::Iso {
            let q = normal(inputs, inputs, &mut g);
            let q = Mat::from_faer(q.view().qr().compute_Q().as_ref());
            let sigma: Vec<f64> = (1..=inputs).map(|k| (k as f64).powf(-0.75)).collect();
            let mean = sigma.iter().map(|s| s * s).sum::<f64>() / inputs as f64;
            let sigma: Vec<f64> = sigma.iter().map(|s| s / mean.sqrt()).collect();
            x = x.scale_columns(&sigma).times(&q.transposed());
            let (channels, factor) = match kind {
                Kind::S2 => (8, 20.0),
                Kind::S3 => (4, 100.0),
                _ => (0, 1.0),
            };
            let mut scale = vec![1.0; inputs];
            let mut left = channels;
            while left > 0 {
                let c = g.below(inputs);
                left -= usize::from(scale[c] == 1.0);
                scale[c] = factor;
            }
            x = x.scale_columns(&scale);
        }
        let mut w = normal(outputs, inputs, &mut g);
        w.data.iter_mut().for_each(|v| *v /= (inputs as f64).sqrt());
        let gram = gram(&x);
        Problem { w, x, gram }
    }
    /// The squared error of the layer's outputs, relative to the outputs.
    pub fn error(&self, other: &Mat) -> f64 {
        super::layer_error(&self.w, other, &self.gram)
    }
}

/// The Gram matrix of rows, without their rounding to `f32`.
pub fn gram(x: &Mat) -> Gram {
    let total = (0..x.cols).map(|j| (0..x.rows).map(|i| x.at(i, j)).sum()).collect();
    Gram { rows: x.rows as u64, dim: x.cols, sum: x.transposed().times(x).data, total }
}

/// The mean of `f` over four layers of a kind. (Where its large channels lie makes a factor of two between layers of `S2`.)
pub fn mean(kind: Kind, f: impl Fn(&Problem) -> f64) -> f64 {
    static LAYERS: OnceLock<Vec<Problem>> = OnceLock::new();
    let kinds = [Kind::Iso, Kind::S1, Kind::S2];
    let all = kinds.iter().flat_map(|&kind| (2..=5).map(move |seed| Problem::new(kind, seed)));
    let layers = LAYERS.get_or_init(|| all.collect());
    let at = kinds.iter().position(|k| *k == kind).expect("a kind that is averaged");
    layers[4 * at..4 * at + 4].iter().map(f).sum::<f64>() / 4.0
}

/// Fails unless `found` is within a factor 1.3 of what is expected.
pub fn assert_near(what: &str, found: f64, expected: f64) {
    assert!((expected / 1.3..expected * 1.3).contains(&found), "{what}: {found:.4}, expected {expected:.4}");
}
