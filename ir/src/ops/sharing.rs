//! How the elements of codes share parameters: scales and zero points of the `decode` family.

use super::shape::*;
use crate::diag::Result;
use crate::testing::Gen;
use crate::types::Type;

/// Which codes share a parameter: with `group` 0 parameters broadcast, otherwise `group` neighbours along `axis` share one.
#[derive(Copy, Clone, Debug)]
pub struct Sharing {
    /// The axis of groups.
    pub axis: usize,
    /// Elements of a group.
    pub group: usize,
}

impl Sharing {
    /// Fails unless `param` fits codes `q`.
    pub(super) fn check(&self, q: &Type, param: &Type, name: &str) -> Result<()> {
        let fits = if self.group == 0 {
            broadcast(&[&q.shape, &param.shape])? == q.shape
        } else {
            check_axis(self.axis, q.rank())?;
            let mut shape = q.shape.to_vec();
            shape[self.axis] = shape[self.axis].clone().ceil_div(self.group as i64);
            param.shape[..] == shape[..]
        };
        if fits {
            return Ok(());
        }
        Err(mismatch("T0364", format!("{name} {param} does not fit codes {q} in groups of {}", self.group)))
    }

    /// For each code in row-major order: the position of its parameter in a tensor of shape `param`.
    pub fn positions(&self, q: &[usize], param: &[usize]) -> Vec<usize> {
        if self.group == 0 {
            return broadcast_positions(param, q);
        }
        let s = strides(param);
        let mut at = Vec::with_capacity(q.iter().product());
        for_each_index(q, |ix| {
            let one = |(a, &i): (usize, &usize)| if a == self.axis { i / self.group } else { i } * s[a];
            at.push(ix.iter().enumerate().map(one).sum());
        });
        at
    }

    /// A random way to share parameters of codes of a shape, and the parameters' shape.
    pub(super) fn sample(g: &mut Gen, q: &[usize]) -> (Sharing, Vec<usize>) {
        let axis = g.int(0, q.len() as i64 - 1) as usize;
        let group = g.int(0, 3) as usize;
        let mut param = if group == 0 { g.broadcastable(q) } else { q.to_vec() };
        if group > 0 {
            param[axis] = param[axis].div_ceil(group);
        }
        (Sharing { axis, group }, param)
    }
}
