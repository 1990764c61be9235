//! `image`: encoded images, decoded by the runtime as by the evaluator.

use super::declare::{Meaning, Sample};
use super::shape::mismatch;
use super::text;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};
use tersor_host as host;

crate::attr_enum! {
    /// Channels of 8 bits in their order.
    pub enum Pixels {
        /// red, green, blue
        Rgb = "rgb",
        /// blue, green, red
        Bgr = "bgr",
        /// luma as ITU-R BT.601 weighs them
        Gray = "gray",
    }
}

op! {
    /// The pixels of an encoded image, `u8[N]`, in the upper left of `[height, width, channels]`, zeros beside them, and how many rows and columns the image has (ONNX
    /// `ImageDecoder`). JPEG, JPEG 2000, PNG, BMP, PNM, TIFF and WebP; one of several frames is the first. What cannot be decoded, or has no room, is an error of the run.
    pub struct Image = "image" {
        operands(x: Int),
        results(y, rows, columns),
        attrs {
            /// What a pixel is.
            pixels: Pixels = Pixels::Rgb,
            /// Rows that there is room for.
            height: u32,
            /// Columns that there is room for.
            width: u32,
            /// Fewer rows or columns are an error too.
            exact: bool = false,
        },
    }
}

impl Image {
    /// What the runtime calls.
    pub(super) fn function(&self) -> host::Function {
        let &Image { height, width, exact, .. } = self;
        host::Function::Image(host::Image { pixels: self.channels() as i32, height, width, exact })
    }
    fn channels(&self) -> host::Pixels {
        match self.pixels {
            Pixels::Rgb => host::Pixels::Rgb,
            Pixels::Bgr => host::Pixels::Bgr,
            Pixels::Gray => host::Pixels::Gray,
        }
    }
    fn shape(&self) -> [usize; 3] {
        [self.height as usize, self.width as usize, self.channels().channels()]
    }
}

impl Meaning for Image {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].dtype != DType::U8 || t[0].rank() != 1 {
            return Err(mismatch("T0386", format!("operand is {}, expected u8[N]", t[0])));
        }
        let count = Type::scalar(DType::I64);
        Ok(vec![Type::new(DType::U8, self.shape().map(Dim::from)), count.clone(), count])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let count = (DType::I64, vec![]);
        text::eval(self.clone(), x, &[(DType::U8, self.shape().to_vec()), count.clone(), count])
    }
    /// Of no bytes: those of random tensors are no image.
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (height, width) = (g.int(0, 4) as u32, g.int(0, 4) as u32);
        (Image { pixels: g.one_of(Pixels::ALL), height, width, exact: false }, vec![g.ty(DType::U8, &[0])])
    }
}
