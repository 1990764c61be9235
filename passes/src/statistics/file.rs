//! The file of statistics: little-endian words after a magic number that names the version, and a checksum of all that at the end.

use super::histogram::{BINS, Histogram};
use super::{Statistics, ValueStatistics};
use std::collections::BTreeMap;
use std::path::Path;
use tersor_ir::constant::ContentHash;
use tersor_ir::diag::Failure;
use tersor_ir::{DType, Diagnostic, Result, Tensor};

/// The last character is the version.
const MAGIC: &[u8; 8] = b"TSRSTAT2";
/// Bytes of the checksum.
const CHECK: usize = 32;
/// No axis and no rank is as large.
const MAX_RANK: u64 = 64;

impl Statistics {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(MAGIC.to_vec());
        out.0.extend(self.module.map_or([0; 32], |h| h.0));
        out.word(self.samples);
        out.word(self.values.len() as u64);
        for (name, v) in &self.values {
            out.word(name.len() as u64);
            out.0.extend(name.as_bytes());
            out.value(v);
        }
        let check = checksum(&out.0);
        out.0.extend(check);
        out.0
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
        if checksum(content) != *check {
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

fn checksum(content: &[u8]) -> [u8; CHECK] {
    ContentHash::of(DType::U8, &[content.len()], content).0
}

struct Writer(Vec<u8>);

impl Writer {
    fn word(&mut self, v: u64) {
        self.0.extend(v.to_le_bytes());
    }
    fn value(&mut self, v: &ValueStatistics) {
        let exponent = i64::from(v.histogram.exponent()) as u64;
        for w in [v.count, v.not_finite, v.min.to_bits(), v.max.to_bits(), v.channel_axis as u64, exponent] {
            self.word(w);
        }
        self.word(v.absmax.len() as u64);
        v.absmax.iter().for_each(|a| self.0.extend(a.to_le_bytes()));
        [&v.sum, &v.abs_sum, &v.square_sum].into_iter().flatten().for_each(|a| self.word(a.to_bits()));
        v.histogram.bins().iter().for_each(|b| self.word(*b));
        let sample = v.sample.as_ref().filter(|t| t.dtype() == DType::F32);
        self.word(sample.map_or(u64::MAX, |t| t.shape().len() as u64));
        if let Some(t) = sample {
            t.shape().iter().for_each(|&d| self.word(d as u64));
            self.0.extend(t.bytes());
        }
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
        let hash: [u8; 32] = self.take(32)?.try_into().ok()?;
        let samples = self.word()?;
        let mut values = BTreeMap::new();
        for _ in 0..self.size(8)? {
            let n = self.size(1)?;
            let name = String::from_utf8(self.take(n)?.to_vec()).ok()?;
            values.insert(name, self.value()?);
        }
        let module = (hash != [0; 32]).then_some(ContentHash(hash));
        self.rest.is_empty().then_some(Statistics { samples, module, values })
    }
    fn value(&mut self) -> Option<ValueStatistics> {
        let (count, not_finite) = (self.word()?, self.word()?);
        count.checked_add(not_finite)?;
        let (min, max) = (f64::from_bits(self.word()?), f64::from_bits(self.word()?));
        let channel_axis = usize::try_from(self.word().filter(|a| *a < MAX_RANK)?).ok()?;
        let exponent = i32::try_from(self.word()? as i64).ok()?;
        let n = self.size(4)?;
        let absmax = self.take(4 * n)?.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
        let absmax = absmax.collect();
        let (sum, abs_sum, square_sum) = (self.floats(n)?, self.floats(n)?, self.floats(n)?);
        let bins = (0..BINS).map(|_| self.word()).collect::<Option<Vec<_>>>()?;
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
        })
    }
}
