//! Norms of windows, running products, columns to images and crops, against ONNX Runtime and the reference of ONNX.

use crate::*;

#[test]
fn norms() {
    case(
        18,
        "LpPool",
        &[x(F32, &[1, 1, 4, 4])],
        &[("kernel_shape", [2, 2].into()), ("strides", [2, 2].into())],
        &[(&[1, 1, 2, 2], &[1.5612, 1.6771, 1.4361, 1.8028])],
    );
    case(
        18,
        "LpPool",
        &[x(F32, &[1, 1, 5])],
        &[("kernel_shape", [3].into()), ("p", 3.into()), ("pads", [1, 1].into())],
        &[(&[1, 1, 5], &[1.2761, 1.3012, 1.3012, 1.2793, 1.2533])],
    );
    case(11, "GlobalLpPool", &[x(F32, &[1, 2, 3])], &[("p", 1.into())], &[(&[1, 2, 1], &[2.25, 2.25])]);
}

#[test]
fn products() {
    case(
        26,
        "CumProd",
        &[x(F32, &[2, 3]), consts(DType::I64, &[], &[1.0])],
        &[],
        &[(&[2, 3], &[-1.25, -0.625, 0.3125, 1.25, 0.3125, -0.23438])],
    );
    case(
        26,
        "CumProd",
        &[x(F32, &[5]), consts(DType::I64, &[], &[0.0])],
        &[("exclusive", 1.into())],
        &[(&[5], &[1.0, -1.25, -0.625, 0.3125, 0.39062])],
    );
    case(
        26,
        "CumProd",
        &[x(F32, &[5]), consts(DType::I64, &[], &[0.0])],
        &[("reverse", 1.into()), ("exclusive", 1.into())],
        &[(&[5], &[-0.078125, -0.15625, 0.3125, 0.25, 1.0])],
    );
}

#[test]
fn images() {
    case(
        18,
        "Col2Im",
        &[x(F32, &[1, 4, 4]), ints(&[3, 3]), ints(&[2, 2])],
        &[],
        &[(&[1, 1, 3, 3], &[-1.25, 0.75, -0.75, -1.5, 3.5, -0.5, -0.25, 0.0, 0.25])],
    );
    case(
        18,
        "Col2Im",
        &[x(F32, &[1, 4, 4]), ints(&[4, 4]), ints(&[2, 2])],
        &[("strides", [3, 3].into()), ("pads", [0, 1, 1, 0].into())],
        &[(&[1, 1, 4, 4], &[0.25, 0.0, 0.5, -0.75, 0.5, 0.0, 0.75, -0.5, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.25, 0.0])],
    );
}

#[test]
fn crops() {
    case(18, "CenterCropPad", &[x(F32, &[2, 5]), ints(&[3, 2])], &[], &[(&[3, 2], &[0.5, -0.5, 1.0, 0.0, 0.0, 0.0])]);
    case(
        18,
        "CenterCropPad",
        &[x(F32, &[2, 5]), ints(&[3])],
        &[("axes", [-1].into())],
        &[(&[2, 3], &[0.5, -0.5, 1.25, 1.0, 0.0, -1.0])],
    );
}
