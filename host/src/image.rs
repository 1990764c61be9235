//! Images, decoded as ONNX's `ImageDecoder` says: JPEG, JPEG 2000, PNG, BMP, PNM, TIFF and WebP; of several frames the first.

use crate::{Error, Result};
use hayro_jpeg2000 as jpeg2000;
use image::{ImageReader, Limits};
use std::io::Cursor;

/// A decoded image in the upper left of a field of zeros: bytes `x[n]` to `u8[height, width, channels]`, and the image's own height and width as `i64[]` each. No bytes are
/// an image of no pixels.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Image {
    /// What a pixel is.
    #[prost(enumeration = "Pixels", tag = "1")]
    pub pixels: i32,
    /// Rows that there is room for; more are an error.
    #[prost(uint32, tag = "2")]
    pub height: u32,
    /// Columns that there is room for; more are an error.
    #[prost(uint32, tag = "3")]
    pub width: u32,
    /// Whether fewer are an error too.
    #[prost(bool, tag = "4")]
    pub exact: bool,
}

/// Channels of 8 bits in their order. What is transparent has its color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Pixels {
    /// Red, green, blue.
    Rgb = 0,
    /// Blue, green, red.
    Bgr = 1,
    /// Luma as ITU-R BT.601 weighs red, green and blue, in 16 bits, rounded.
    Gray = 2,
}

impl Pixels {
    /// Bytes of a pixel.
    pub fn channels(self) -> usize {
        if self == Pixels::Gray { 1 } else { 3 }
    }
}

impl Image {
    /// What a pixel is.
    pub(crate) fn kind(&self) -> Result<Pixels> {
        Pixels::try_from(self.pixels).map_err(|_| Error::new(format!("pixels of kind {} are unknown", self.pixels)))
    }
}

fn unreadable(e: impl std::fmt::Display) -> Error {
    Error::new(format!("the image cannot be decoded: {e}"))
}

/// An image of which the header was read.
enum Encoded<'a> {
    Nothing,
    Jpeg2000(Box<jpeg2000::Image<'a>>),
    Other(&'a [u8]),
}

impl<'a> Encoded<'a> {
    fn new(bytes: &'a [u8]) -> Result<Encoded<'a>> {
        // The signatures of files and of bare streams (ISO/IEC 15444-1, I.5.1 and A.2).
        let signatures = [&b"\0\0\0\x0cjP  "[..], b"\xff\x4f\xff\x51"];
        Ok(match bytes {
            [] => Encoded::Nothing,
            _ if signatures.iter().any(|s| bytes.starts_with(s)) => {
                Encoded::Jpeg2000(Box::new(jpeg2000::Image::new(bytes, &Default::default()).map_err(unreadable)?))
            }
            _ => Encoded::Other(bytes),
        })
    }

    /// Width and height.
    fn size(&self) -> Result<(u32, u32)> {
        match self {
            Encoded::Nothing => Ok((0, 0)),
            Encoded::Jpeg2000(i) => Ok((i.width(), i.height())),
            Encoded::Other(bytes) => reader(bytes)?.into_dimensions().map_err(unreadable),
        }
    }

    /// Red, green and blue of each pixel.
    fn decode(&self, (width, height): (u32, u32)) -> Result<Vec<u8>> {
        match self {
            Encoded::Nothing => Ok(vec![]),
            Encoded::Jpeg2000(i) => {
                let colors = usize::from(i.color_space().num_channels());
                let mut context = Default::default();
                let samples = i.decode(&mut context).map_err(unreadable)?.data_u8();
                if !matches!(colors, 1 | 3) {
                    let message = format!("pixels of {colors} channels, expected gray or red, green and blue");
                    return Err(unreadable(message));
                }
                let pixels = samples.chunks_exact(colors + usize::from(i.has_alpha()));
                if pixels.len() != width as usize * height as usize {
                    return Err(unreadable("parts of it are missing"));
                }
                Ok(pixels.flat_map(|p| [p[0], p[colors / 2], p[colors - 1]]).collect())
            }
            Encoded::Other(bytes) => {
                let mut reader = reader(bytes)?;
                let mut limits = Limits::default();
                (limits.max_image_width, limits.max_image_height) = (Some(width), Some(height));
                reader.limits(limits);
                Ok(reader.decode().map_err(unreadable)?.into_rgb8().into_raw())
            }
        }
    }
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>> {
    ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(unreadable)
}

pub(crate) fn decode(f: &Image, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let pixels = f.kind()?;
    let (room, channels) = ([f.height as usize, f.width as usize], pixels.channels());
    let size = room[0].checked_mul(room[1]).and_then(|n| n.checked_mul(channels)).filter(|&n| n <= isize::MAX as usize);
    let size = size.ok_or_else(|| Error::new(format!("room for {} x {} pixels overflows", room[0], room[1])))?;
    // The header alone says how large the image is, before anything of its size is made.
    let image = Encoded::new(bytes)?;
    let (width, height) = image.size()?;
    let fits = if f.exact { height == f.height && width == f.width } else { height <= f.height && width <= f.width };
    if !fits {
        let expected = if f.exact { "expected" } else { "there is room for" };
        let message = format!("the image has {height} x {width} pixels, {expected} {} x {}", f.height, f.width);
        return Err(Error::new(message));
    }
    let mut out = vec![0; size];
    if width > 0 && height > 0 {
        let rgb = image.decode((width, height))?;
        let rows = out.chunks_exact_mut(room[1] * channels).zip(rgb.chunks_exact(width as usize * 3));
        for (to, [r, g, b]) in rows.flat_map(|(to, from)| to.chunks_exact_mut(channels).zip(from.as_chunks().0)) {
            match pixels {
                Pixels::Rgb => to.copy_from_slice(&[*r, *g, *b]),
                Pixels::Bgr => to.copy_from_slice(&[*b, *g, *r]),
                Pixels::Gray => {
                    let weighted = 19595 * u32::from(*r) + 38470 * u32::from(*g) + 7471 * u32::from(*b);
                    to[0] = ((weighted + (1 << 15)) >> 16) as u8;
                }
            }
        }
    }
    let extents = [height, width].map(|n| i64::from(n).to_ne_bytes().to_vec());
    Ok([out].into_iter().chain(extents).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Strings};

    /// 2 x 3 pixels, plain text: red, green, blue; white, gray, black.
    const PNM: &[u8] = b"P3\n3 2\n255\n255 0 0  0 255 0  0 0 255\n255 255 255  100 100 100  0 0 0\n";

    fn call(pixels: Pixels, [height, width]: [u32; 2], exact: bool, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let f = Function::Image(Image { pixels: pixels as i32, height, width, exact });
        f.prepare()?.call(&[bytes], &mut Strings::new())
    }

    #[test]
    fn pixels_stand_in_the_corner() {
        let y = call(Pixels::Rgb, [3, 4], false, PNM).unwrap();
        assert_eq!(y[0][..12], [255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0]);
        assert_eq!(y[0][12..24], [255, 255, 255, 100, 100, 100, 0, 0, 0, 0, 0, 0]);
        assert_eq!(y[0][24..], [0; 12]);
        assert_eq!(y[1..], [2i64, 3].map(|n| n.to_ne_bytes().to_vec()));
        assert_eq!(call(Pixels::Bgr, [2, 3], true, PNM).unwrap()[0][..6], [0, 0, 255, 0, 255, 0]);
        assert_eq!(call(Pixels::Gray, [2, 3], true, PNM).unwrap()[0], [76, 150, 29, 255, 100, 0]);
        assert_eq!(call(Pixels::Gray, [1, 1], false, b"").unwrap(), [vec![0], vec![0; 8], vec![0; 8]]);
    }

    #[test]
    fn images_that_do_not_fit_or_are_none() {
        let said = |y: Result<Vec<Vec<u8>>>| y.unwrap_err().to_string();
        assert!(said(call(Pixels::Rgb, [1, 3], false, PNM)).contains("2 x 3 pixels, there is room for 1 x 3"));
        assert!(said(call(Pixels::Rgb, [3, 3], true, PNM)).contains("2 x 3 pixels, expected 3 x 3"));
        assert!(said(call(Pixels::Rgb, [9, 9], false, b"no image")).contains("cannot be decoded"));
        assert!(said(call(Pixels::Rgb, [9, 9], false, &PNM[..30])).contains("cannot be decoded"));
        // A header of 4 gigapixels.
        let huge = b"P6\n65535 65535\n255\nabc";
        assert!(said(call(Pixels::Rgb, [9, 9], false, huge)).contains("there is room for 9 x 9"));
        assert!(Function::Image(Image { pixels: 7, ..Image::default() }).prepare().is_err());
    }
}
