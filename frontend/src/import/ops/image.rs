//! Encoded images.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::DType;
use tersor_ir::diag::Result;
use tersor_ir::ops::Image;
use tersor_ir::ops::image::Pixels;

/// An image of the size that is declared, or of any size up to a limit.
fn image_decoder(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    if t.dtype != DType::U8 || t.rank() != 1 {
        return Err(cx.invalid(format!("input 0 is {t}, expected u8[N]")));
    }
    let pixels = match cx.string("pixel_format", "RGB").as_str() {
        "RGB" => Pixels::Rgb,
        "BGR" => Pixels::Bgr,
        "Grayscale" => Pixels::Gray,
        other => return Err(cx.invalid(format!("pixel_format {}", other.escape_debug()))),
    };
    let declared: Vec<_> = cx.declared(0).into_iter().flatten().take(2).map(|n| u32::try_from(n?).ok()).collect();
    let room = cx.importer.options.limits.image_extent as u32;
    let (height, width, exact) = match declared[..] {
        [Some(h), Some(w)] => (h, w, true),
        _ => (room, room, false),
    };
    let parts = cx.ops(Image { pixels, height, width, exact }, &[x])?;
    if exact {
        return done(parts[0]);
    }
    let y = cx.prefix(parts[0], 0, parts[1])?;
    done(cx.prefix(y, 1, parts[2])?)
}

pub(super) const OPS: Topic = &[("ImageDecoder", image_decoder)];
