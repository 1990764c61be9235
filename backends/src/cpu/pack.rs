//! Weights in the packed layouts of `ARCHITECTURE.md`.
//!
//! Panels have 16 columns. All layouts are `[groups][N/16][K/U][16][U]` for a unit `U` of neighbours along K, with zeros up to the next 16 columns and the next
//! `depth` rows.

use tersor_ir::{DType, Tensor};

/// Columns of a panel.
pub const PANEL: usize = 16;

/// Where the elements of a weight lie: `groups` matrices of `k` rows and `n` columns, each at an index of the tensor.
pub struct Matrix<'a> {
    pub groups: usize,
    pub k: usize,
    pub n: usize,
    /// The position of element (group, k, n).
    pub at: &'a dyn Fn(usize, usize, usize) -> usize,
}

impl Matrix<'_> {
    /// Whether any unsigned bytes times two neighbours along K (rows 0 and 1, 2 and 3, …) fit in an `i16`.
    pub fn narrow(&self, w: &Tensor) -> bool {
        const MOST: i64 = i16::MAX as i64 / u8::MAX as i64;
        let column = |g: usize, n: usize| {
            let sum = |k: usize| w.get_i64((self.at)(g, k, n)) + w.get_i64((self.at)(g, k + 1, n));
            (0..self.k.saturating_sub(1)).step_by(2).all(|k| sum(k).abs() <= MOST)
        };
        (0..self.groups).all(|g| (0..self.n).all(|n| column(g, n)))
    }
}

/// How elements are packed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Element type in memory.
    pub dtype: DType,
    /// Neighbours along K that lie side by side.
    pub unit: usize,
    /// K is filled up to a multiple of this.
    pub depth: usize,
}

impl Layout {
    /// The layout of a storage type that kernels read without conversion.
    pub fn of(dtype: DType) -> Layout {
        match dtype {
            DType::BF16 | DType::F16 => Layout { dtype, unit: 2, depth: 32 },
            DType::I8 => Layout { dtype, unit: 4, depth: 64 },
            _ => Layout { dtype, unit: 1, depth: 1 },
        }
    }
    /// K with its padding.
    pub fn padded(&self, k: usize) -> usize {
        k.next_multiple_of(self.depth)
    }
    /// Bytes of one panel.
    pub fn panel_bytes(&self, k: usize) -> usize {
        self.padded(k) * PANEL * self.dtype.bits() as usize / 8
    }
    /// The layout's name in artifacts.
    pub fn name(&self) -> String {
        match self.unit {
            1 => format!("{} [N/16][K][16]", self.dtype),
            u => format!("{} [N/16][K/{u}][16][{u}]", self.dtype),
        }
    }
}

/// Packs the elements of `w`.
pub fn panels(w: &Tensor, m: &Matrix, layout: Layout) -> Tensor {
    let (padded, count) = (layout.padded(m.k), m.n.div_ceil(PANEL));
    let shape = vec![m.groups, count, padded / layout.unit, PANEL, layout.unit];
    let total: usize = shape.iter().product();
    let mut from = vec![usize::MAX; total];
    let mut out = 0;
    for g in 0..m.groups {
        for panel in 0..count {
            for k in (0..padded).step_by(layout.unit) {
                for n in panel * PANEL..(panel + 1) * PANEL {
                    for k in k..k + layout.unit {
                        if k < m.k && n < m.n {
                            from[out] = (m.at)(g, k, n);
                        }
                        out += 1;
                    }
                }
            }
        }
    }
    if w.dtype() == layout.dtype && layout.dtype.bits() >= 8 {
        let (size, source) = (layout.dtype.bits() as usize / 8, w.bytes());
        let mut bytes = vec![0u8; total * size];
        for (to, &at) in bytes.chunks_exact_mut(size).zip(&from).filter(|(_, at)| **at != usize::MAX) {
            to.copy_from_slice(&source[at * size..][..size]);
        }
        return Tensor::from_blob(layout.dtype, shape, bytes.into()).expect("as many bytes as elements");
    }
    if layout.dtype.is_float() {
        let values: Vec<f64> = from.iter().map(|&at| if at == usize::MAX { 0.0 } else { w.get_f64(at) }).collect();
        Tensor::from_f64(layout.dtype, shape, &values)
    } else {
        let values: Vec<i64> = from.iter().map(|&at| if at == usize::MAX { 0 } else { w.get_i64(at) }).collect();
        Tensor::from_i64(layout.dtype, shape, &values)
    }
}

/// For each column of each group `factor` times the sum of its weights, filled up to whole panels.
pub fn column_sums(w: &Tensor, m: &Matrix, factor: i64) -> Tensor {
    let width = m.n.next_multiple_of(PANEL);
    let values = w.to_i64();
    let mut sums = vec![0i64; m.groups * width];
    for g in 0..m.groups {
        for n in 0..m.n {
            sums[g * width + n] = factor * (0..m.k).map(|k| values[(m.at)(g, k, n)]).sum::<i64>();
        }
    }
    Tensor::from_i64(DType::I32, [m.groups, width], &sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_along_k_lie_side_by_side() {
        let (k, n) = (5, 18);
        let w = Tensor::from_i64(DType::I8, [k, n], &(0..90).collect::<Vec<_>>());
        let at = |_: usize, k: usize, c: usize| k * n + c;
        let m = Matrix { groups: 1, k, n, at: &at };
        let p = panels(&w, &m, Layout::of(DType::I8));
        assert_eq!(p.shape(), [1, 2, 16, 16, 4]);
        let v = p.to_i64();
        assert_eq!(v[..8], [0, 18, 36, 54, 1, 19, 37, 55]);
        assert_eq!(v[64..68], [72, 0, 0, 0]);
        assert_eq!(v[16 * 64 + 4..][..4], [17, 35, 53, 71]);
        assert_eq!(v[16 * 64 + 8..][..4], [0; 4]);
        assert_eq!(column_sums(&w, &m, -2).to_i64()[..2], [-360, -370]);
    }
}
