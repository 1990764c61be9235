//! Shifts, against ONNX Runtime, and gated units, against the reference.

use crate::*;

#[test]
fn shifts() {
    case(
        11,
        "BitShift",
        &[consts(DType::U8, &[4], &[1.0, 255.0, 16.0, 3.0]), consts(DType::U8, &[4], &[3.0, 1.0, 4.0, 7.0])],
        &[("direction", "LEFT".into())],
        &[(&[4], &[8.0, 254.0, 0.0, 128.0])],
    );
    case(
        11,
        "BitShift",
        &[consts(DType::U8, &[4], &[1.0, 255.0, 16.0, 3.0]), consts(DType::U8, &[4], &[3.0, 1.0, 4.0, 9.0])],
        &[("direction", "RIGHT".into())],
        &[(&[4], &[0.0, 127.0, 1.0, 0.0])],
    );
}

#[test]
fn gates() {
    case(24, "Swish", &[x(F32, &[4])], &[], &[(&[4], &[-0.27838, 0.31123, -0.18877, 0.97162])]);
    case(24, "Swish", &[x(F32, &[4])], &[("alpha", 1.5f32.into())], &[(&[4], &[-0.16621, 0.33959, -0.16041, 1.0838])]);
    case(28, "SwiGLU", &[x(F32, &[4]), x(F32, &[4])], &[], &[(&[4], &[0.13919, 0.38904, -0.047193, -0.72872])]);
}
