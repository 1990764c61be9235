//! The file of statistics: little-endian words after a magic number that names the version, and a checksum of all that at the end.

use super::histogram::{BINS, Histogram};
use super::{Statistics, ValueStatistics};
use crate::gram::Gram;
use crate::patches::Window;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tersor_ir::constant::ContentHash;
use tersor_ir::diag::Failure;
use tersor_ir::{DType, Diagnostic, Result, Tensor};

/// The last character is the version.
const MAGIC: &[u8; 8] = b"TSRSTAT5";
/// Bytes of the checksum.
const CHECK: usize = 32;
/// No axis and no rank is as large.
const MAX_RANK: u64 = 64;
/// No count is larger: sums of counts of many files do not overflow.
const MOST: u64 = 1 << 48;

impl Statistics {
    /// Writes the file.
    pub fn write(&self, to: &mut dyn Write) -> std::io::Result<()> {
        let mut out = Writer { to, check: blake3::Hasher::new() };
        out.bytes(MAGIC)?;
        for hash in [self.module, self.data] {
            out.bytes(&hash.map_or([0; 32], |h| h.0))?;
        }
        out.word(self.samples)?;
        out.word(self.repeated)?;
        out.word(self.values.len() as u64)?;
        for (name, v) in &self.values {
            out.word(name.len() as u64)?;
            out.bytes(name.as_bytes())?;
            out.value(v)?;
        }
        let check = *out.check.finalize().as_bytes();
        out.bytes(&check)
    }
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![];
        self.write(&mut out).expect("memory takes everything");
        out
    }
    /// Reads what [`Statistics::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Statistics> {
        let bad = |what: &str| {
            let d = Diagnostic::error("Q0104", format!("not usable as a statistics file: {what}"));
            Err(d.failure(Failure::Usage).with_help("make it with `tersor calibrate`"))
        };
        let Some((magic, _)) = bytes.split_first_chunk::<8>() else { return bad("it is cut short") };
        if magic[..7] != MAGIC[..7] {
            return bad("it is something else");
        }
        if magic != MAGIC {
            return bad("it is of another version");
        }
        let Some((content, check)) = bytes.split_last_chunk::<CHECK>() else { return bad("it is cut short") };
        if blake3::hash(content).as_bytes() != check {
            return bad("its checksum does not fit; it is cut short or damaged");
        }
        match (Reader { rest: &content[MAGIC.len()..] }).statistics() {
            Some(s) => Ok(s),
            None => bad("its parts do not fit together"),
        }
    }
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Statistics> {
        let shown = path.display().to_string();
        let failed = |e| Diagnostic::error("Q0105", format!("cannot read statistics: {e}")).failure(Failure::File);
        let bytes = std::fs::read(path).map_err(failed);
        bytes.and_then(|b| Statistics::from_bytes(&b)).map_err(|d| d.in_file(shown))
    }
}

struct Writer<'a> {
    to: &'a mut dyn Write,
    check: blake3::Hasher,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.check.update(bytes);
        self.to.write_all(bytes)
    }
    fn word(&mut self, v: u64) -> std::io::Result<()> {
        self.bytes(&v.to_le_bytes())
    }
    fn words(&mut self, v: impl IntoIterator<Item = u64>) -> std::io::Result<()> {
        let bytes: Vec<u8> = v.into_iter().flat_map(u64::to_le_bytes).collect();
        self.bytes(&bytes)
    }
    fn value(&mut self, v: &ValueStatistics) -> std::io::Result<()> {
        let exponent = i64::from(v.histogram.exponent()) as u64;
        self.words([v.count, v.not_finite, v.min.to_bits(), v.max.to_bits(), v.channel_axis as u64, exponent])?;
        self.word(v.absmax.len() as u64)?;
        self.bytes(&v.absmax.iter().flat_map(|a| a.to_le_bytes()).collect::<Vec<u8>>())?;
        for sums in [&v.sum, &v.abs_sum, &v.square_sum] {
            self.words(sums.iter().map(|a| a.to_bits()))?;
        }
        self.words(v.histogram.bins().iter().copied())?;
        let sample = v.sample.as_ref().filter(|t| t.dtype() == DType::F32);
        self.word(sample.map_or(u64::MAX, |t| t.shape().len() as u64))?;
        if let Some(t) = sample {
            self.words(t.shape().iter().map(|d| *d as u64))?;
            self.bytes(t.bytes())?;
        }
        self.grams(v.gram.as_slice())?;
        self.word(v.windows.len() as u64)?;
        for (w, grams) in &v.windows {
            for sizes in [&w.kernel, &w.strides, &w.pads, &w.dilations] {
                self.word(sizes.len() as u64)?;
                self.words(sizes.iter().map(|n| *n as u64))?;
            }
            self.words([w.groups as u64, w.channels_last.into()])?;
            self.grams(grams)?;
        }
        Ok(())
    }
    /// Each as rows, elements of a row, the lower triangle of the sum, and the sum of the rows.
    fn grams(&mut self, grams: &[Gram]) -> std::io::Result<()> {
        self.word(grams.len() as u64)?;
        for g in grams {
            self.words([g.rows, g.dim as u64])?;
            for i in 0..g.dim {
                self.words(g.sum[i * g.dim..][..=i].iter().map(|v| v.to_bits()))?;
            }
            self.words(g.total.iter().map(|v| v.to_bits()))?;
        }
        Ok(())
    }
}

/// Reads what may be anything: every size is compared with what is left before memory is taken.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }
    fn word(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn count(&mut self) -> Option<u64> {
        self.word().filter(|n| *n <= MOST)
    }
    /// A number of things of at least so many bytes each.
    fn size(&mut self, each: usize) -> Option<usize> {
        let n = usize::try_from(self.word()?).ok()?;
        (n.checked_mul(each)? <= self.rest.len()).then_some(n)
    }
    fn floats(&mut self, n: usize) -> Option<Vec<f64>> {
        let bytes = self.take(n.checked_mul(8)?)?;
        Some(bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
    }
    fn statistics(&mut self) -> Option<Statistics> {
        let (module, data) = (self.hash()?, self.hash()?);
        let (samples, repeated) = (self.count()?, self.count()?);
        let mut values = BTreeMap::new();
        for _ in 0..self.size(8)? {
            let n = self.size(1)?;
            let name = String::from_utf8(self.take(n)?.to_vec()).ok()?;
            values.insert(name, self.value()?);
        }
        self.rest.is_empty().then_some(Statistics { samples, repeated, module, data, values })
    }
    fn hash(&mut self) -> Option<Option<ContentHash>> {
        let hash: [u8; 32] = self.take(32)?.try_into().ok()?;
        Some((hash != [0; 32]).then_some(ContentHash(hash)))
    }
    fn sizes(&mut self) -> Option<Vec<usize>> {
        let n = self.size(8)?;
        (0..n).map(|_| usize::try_from(self.word()?).ok()).collect()
    }
    fn windows(&mut self) -> Option<(Window, Vec<Gram>)> {
        let (kernel, strides, pads, dilations) = (self.sizes()?, self.sizes()?, self.sizes()?, self.sizes()?);
        let groups = usize::try_from(self.word()?).ok()?;
        let channels_last = self.word()? == 1;
        Some((Window { kernel, strides, pads, dilations, groups, channels_last }, self.grams()?))
    }
    fn grams(&mut self) -> Option<Vec<Gram>> {
        let n = self.size(16)?;
        (0..n).map(|_| self.gram()).collect()
    }
    fn gram(&mut self) -> Option<Gram> {
        let rows = self.count()?;
        let dim = usize::try_from(self.word()?).ok()?;
        // The triangle must be there before memory is taken for the square.
        let triangle = dim.checked_mul(dim.checked_add(1)?)? / 2;
        if triangle.checked_mul(8)? > self.rest.len() {
            return None;
        }
        let mut g = Gram::new(dim);
        for i in 0..dim {
            g.sum[i * dim..][..=i].copy_from_slice(&self.floats(i + 1)?);
        }
        g.mirror(rows);
        g.total = self.floats(dim)?;
        g.sum.iter().chain(&g.total).all(|v| v.is_finite()).then_some(g)
    }
    fn value(&mut self) -> Option<ValueStatistics> {
        let (count, not_finite) = (self.count()?, self.count()?);
        let (min, max) = (f64::from_bits(self.word()?), f64::from_bits(self.word()?));
        if count > 0 && !(min.is_finite() && max.is_finite() && min <= max) {
            return None;
        }
        let channel_axis = usize::try_from(self.word().filter(|a| *a < MAX_RANK)?).ok()?;
        let exponent = i32::try_from(self.word()? as i64).ok()?;
        let n = self.size(4)?;
        let absmax = self.take(4 * n)?.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
        let absmax = absmax.collect();
        let (sum, abs_sum, square_sum) = (self.floats(n)?, self.floats(n)?, self.floats(n)?);
        let bins = (0..BINS).map(|_| self.count()).collect::<Option<Vec<_>>>()?;
        let histogram = Histogram::from_parts(exponent, bins)?;
        let sample = match self.word()? {
            u64::MAX => None,
            rank => {
                let rank = Some(rank).filter(|r| *r < MAX_RANK)?;
                let shape: Vec<usize> = (0..rank).map(|_| self.size(0)).collect::<Option<_>>()?;
                let n = shape.iter().try_fold(4usize, |a, &b| a.checked_mul(b))?;
                Some(Tensor::from_blob(DType::F32, shape, self.take(n)?.to_vec().into())?)
            }
        };
        let gram = self.grams()?;
        if gram.len() > 1 {
            return None;
        }
        let many = self.size(8)?;
        let windows = (0..many).map(|_| self.windows()).collect::<Option<_>>()?;
        Some(ValueStatistics {
            count,
            not_finite,
            min,
            max,
            channel_axis,
            absmax,
            sum,
            abs_sum,
            square_sum,
            histogram,
            sample,
            gram: gram.into_iter().next(),
            windows,
        })
    }
}
