//! Panels of codes.
//!
//! A panel is `[chunks]`: scales `[16]` and zero points `[16]` of the chunk where there are groups, then its units. A unit is the codes of sixteen columns and [`Format::unit`] rows, plane after
//! plane, each plane `[words][16]` of 32 bits; a part of `p` bits of row `j` lies in word `j / (32 / p)`, in byte `j % 4` of it, so that neighbours along K can be taken as bytes.
//! Rows that do not exist have code 0. Chunks of sparse weights are those of [`super::sparse`].

use super::source::Source;
use super::{Encoded, Format, planes, sparse};
use crate::cpu::pack::{Matrix, PANEL};
use crate::emit::Scalar;
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, Tensor};

/// The first bit of row `j` in its word of a plane of `p` bits.
pub fn bit(p: u32, j: u32) -> u32 {
    let j = j % (32 / p);
    8 * (j % 4) + p * (j / 4)
}

/// The smallest type that holds all scales exactly.
fn scale_type(values: impl Iterator<Item = f64> + Clone) -> (DType, Scalar) {
    [(DType::F16, Scalar::F16), (DType::BF16, Scalar::BF16)]
        .into_iter()
        .find(|(d, _)| values.clone().all(|v| Tensor::scalar(*d, v).get_f64(0) == v))
        .unwrap_or((DType::F32, Scalar::F32))
}

/// Columns of parameters: for each group of columns, column and row the number of the value.
struct Grid<'a> {
    source: &'a Source,
    m: &'a Matrix<'a>,
}

impl Grid<'_> {
    fn code(&self, g: usize, k: usize, n: usize) -> usize {
        self.source.position((self.m.at)(g, k, n))
    }
    /// Rows after which any column's scale or zero point changes: their greatest common divisor.
    fn group(&self) -> usize {
        (1..self.m.k).fold(self.m.k, |group, k| if k % group != 0 && self.changes(k) { gcd(group, k) } else { group })
    }
    fn changes(&self, k: usize) -> bool {
        (0..self.m.groups).any(|g| {
            (0..self.m.n).any(|n| {
                let (a, b) = (self.code(g, k - 1, n), self.code(g, k, n));
                [&self.source.scale, &self.source.zero].into_iter().flatten().any(|p| p.of(a) != p.of(b))
            })
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Packs a weight in the fewest bytes: of a sparse one, all codes or those that are kept with their masks. `None` where neither is possible.
pub fn encode(source: &Source, m: &Matrix) -> Option<Encoded> {
    if m.k == 0 || m.n == 0 {
        return None;
    }
    let all = pack(source, m, None);
    let Some(values) = sparse::Values::of(source, m) else { return all };
    [all, pack(source, m, Some(values))].into_iter().flatten().min_by_key(Encoded::bytes)
}

/// Packs a weight, what is kept of it in `values`; `None` where its parameters change too often along K, or its codes are of a width that panels do not have.
fn pack(source: &Source, m: &Matrix, mut values: Option<sparse::Values>) -> Option<Encoded> {
    let dtype = source.codes.dtype();
    let bits = values.as_ref().map_or(dtype.bits(), |v| v.bits);
    if values.is_none() && planes(bits).is_empty() {
        return None;
    }
    let grid = Grid { source, m };
    let group = grid.group();
    // Two's complement codes: those of unsigned types, and their zero points, are less by half their range.
    let middle = if source.table.is_none() && dtype.class() == DTypeClass::UInt { 1i64 << (bits - 1) } else { 0 };
    let zeros = source.zero.as_ref().map(|z| z.values.clone()).unwrap_or_else(|| vec![0.0]);
    let zero = source.table.is_none() && zeros.iter().any(|&z| z != middle as f64);
    if zero && zeros.iter().any(|&z| !(-128.0..=127.0).contains(&(z - middle as f64))) {
        return None;
    }
    let reach = 128.0 - f64::from(1u32 << (bits.min(8) - 1));
    let narrow = !zero || zeros.iter().all(|&z| (z - middle as f64).abs() <= reach);
    let in_groups = group < m.k && source.scale.as_ref().is_some_and(|s| s.values.len() > 1);
    let (scale_dtype, scale_scalar) = match &source.scale {
        Some(s) if in_groups => scale_type(s.values.iter().copied()),
        _ => (DType::F32, Scalar::F32),
    };
    let format = Format {
        k: m.k as i64,
        bits,
        group: if in_groups || zero { group } else { m.k } as i64,
        scale: in_groups.then_some(scale_scalar),
        zero,
        table: source.table.is_some(),
        sparse: None,
    };
    let format = Format { sparse: values.as_ref().map(|v| v.format(&format)), ..format };
    let codes = if values.is_none() { source.codes.to_i64() } else { vec![] };
    let mut bytes = vec![];
    for g in 0..m.groups {
        for panel in 0..m.n.div_ceil(PANEL) {
            let columns: Vec<usize> = (panel * PANEL..((panel + 1) * PANEL).min(m.n)).collect();
            for from in (0..m.k).step_by(format.chunk() as usize) {
                let to = (from + format.chunk() as usize).min(m.k);
                let each = |f: &dyn Fn(usize) -> f64| {
                    let mut v: Vec<f64> = columns.iter().map(|&n| f(grid.code(g, from, n))).collect();
                    v.resize(PANEL, 0.0);
                    v
                };
                if let Some(s) = source.scale.as_ref().filter(|_| in_groups) {
                    bytes.extend_from_slice(Tensor::from_f64(scale_dtype, [PANEL], &each(&|i| s.of(i))).bytes());
                }
                if zero {
                    let z = each(&|i| source.zero.as_ref().map_or(0.0, |z| z.of(i)) - middle as f64);
                    bytes.extend_from_slice(Tensor::from_f64(DType::I8, [PANEL], &z).bytes());
                }
                if let Some(values) = &mut values {
                    values.chunk(&format, from..to, &|k, i| Some(grid.code(g, k, *columns.get(i)?)), &mut bytes)?;
                    continue;
                }
                for from in (from..to).step_by(format.unit() as usize) {
                    let code = |j: usize, n: usize| {
                        let there = from + j < to;
                        if there { codes[grid.code(g, from + j, columns[n])] - middle } else { 0 }
                    };
                    unit(&format, columns.len(), &code, &mut bytes);
                }
            }
        }
    }
    let factors = match &source.scale {
        Some(s) if !in_groups && s.values.len() > 1 => {
            let mut f = vec![];
            for g in 0..m.groups {
                f.extend((0..m.n).map(|n| s.of(grid.code(g, 0, n)) * source.factor));
            }
            f.resize(f.len() + PANEL, 0.0);
            Some(f)
        }
        s => {
            let one = s.as_ref().filter(|_| !in_groups).map_or(1.0, |s| s.values[0]) * source.factor;
            (one != 1.0).then(|| vec![one])
        }
    };
    let tensor = |v: &[f64]| Tensor::from_f64(DType::F32, [v.len()], v);
    let count = bytes.len();
    Some(Encoded {
        format,
        panels: Tensor::from_blob(DType::U8, vec![count], bytes.into())?,
        table: match values {
            Some(v) => Some(v.finish()?),
            None => source.table.as_deref().map(tensor),
        },
        factors: factors.as_deref().map(tensor),
        narrow,
    })
}

/// Appends a unit.
fn unit(format: &Format, columns: usize, code: &dyn Fn(usize, usize) -> i64, bytes: &mut Vec<u8>) {
    let mut below = format.bits;
    for &p in planes(format.bits) {
        below -= p;
        let per_word = 32 / p as usize;
        for word in 0..format.unit() as usize / per_word {
            for n in 0..PANEL {
                let mut w = 0u32;
                for j in (0..per_word).filter(|_| n < columns) {
                    let part = (code(word * per_word + j, n) >> below) as u32 & (u32::MAX >> (32 - p));
                    w |= part << bit(p, j as u32);
                }
                bytes.extend_from_slice(&w.to_le_bytes());
            }
        }
    }
}
