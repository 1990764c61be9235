//! Quantization operators, against ONNX Runtime.

use crate::*;

#[test]
fn linear() {
    case(
        13,
        "QuantizeLinear",
        &[x(F32, &[2, 3]), consts(F32, &[], &[0.25]), consts(DType::U8, &[], &[3.0])],
        &[],
        &[(&[2, 3], &[0.0, 5.0, 1.0, 8.0, 4.0, 0.0])],
    );
    case(
        13,
        "QuantizeLinear",
        &[x(F32, &[2, 3]), consts(F32, &[3], &[0.25, 0.5, 0.1]), consts(DType::I8, &[3], &[0.0, 1.0, -2.0])],
        &[("axis", 1.into())],
        &[(&[2, 3], &[-5.0, 2.0, -7.0, 5.0, 1.0, -10.0])],
    );
    case(10, "QuantizeLinear", &[x(F32, &[3]), consts(F32, &[], &[0.1])], &[], &[(&[3], &[0.0, 5.0, 0.0])]);
    case(
        13,
        "DequantizeLinear",
        &[x(DType::I8, &[2, 3]), consts(F32, &[], &[0.25])],
        &[],
        &[(&[2, 3], &[-1.25, 0.5, -0.5, 1.25, 0.25, -0.75])],
    );
    case(
        13,
        "DequantizeLinear",
        &[x(DType::U8, &[2, 3]), consts(F32, &[2], &[0.25, 0.5]), consts(DType::U8, &[2], &[1.0, 2.0])],
        &[("axis", 0.into())],
        &[(&[2, 3], &[-0.25, 1.5, 0.5, 4.0, 2.0, 0.0])],
    );
    case(13, "DequantizeLinear", &[x(DType::I32, &[3]), consts(F32, &[], &[0.5])], &[], &[(&[3], &[-2.5, 1.0, -1.0])]);
}

/// Numbers from ONNX's reference.
#[test]
fn codes_of_small_types() {
    let numbers = || consts(F32, &[6], &[0.3, 2.5, -7.0, 100.0, -0.2, 1.25]);
    let codes = |zero: (DType, f64), want: [f64; 6]| {
        let args = [numbers(), consts(F32, &[], &[0.5]), consts(zero.0, &[], &[zero.1])];
        case(25, "QuantizeLinear", &args, &[], &[(&[6], &want)]);
    };
    codes((DType::I4, 1.0), [2.0, 6.0, -8.0, 7.0, 1.0, 3.0]);
    codes((DType::U2, 1.0), [2.0, 3.0, 0.0, 3.0, 1.0, 3.0]);
    codes((DType::I16, -3.0), [-2.0, 2.0, -17.0, 197.0, -3.0, -1.0]);
    codes((DType::F8E4M3, 0.0), [0.625, 5.0, -14.0, 192.0, -0.40625, 2.5]);
    codes((DType::F4E2M1, 0.0), [0.5, 4.0, -6.0, 6.0, -0.5, 2.0]);
    case(
        25,
        "DequantizeLinear",
        &[consts(DType::F8E5M2, &[3], &[0.5, -3.0, 57344.0]), consts(F32, &[], &[0.5])],
        &[],
        &[(&[3], &[0.25, -1.5, 28672.0])],
    );
    case(
        25,
        "DequantizeLinear",
        &[consts(DType::F4E2M1, &[2], &[0.5, -3.0]), consts(DType::F8E8M0, &[], &[4.0])],
        &[("output_dtype", 1.into())],
        &[(&[2], &[2.0, -12.0])],
    );
}

/// Blocks that do not fill the axis.
#[test]
fn codes_in_blocks() {
    case(
        21,
        "QuantizeLinear",
        &[
            consts(F32, &[2, 5], &[1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, -3.0, -4.0, -5.0]),
            consts(F32, &[2, 3], &[1.0, 0.5, 0.25, 2.0, 1.0, 0.5]),
            consts(DType::U8, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ],
        &[("axis", 1.into()), ("block_size", 2.into())],
        &[(&[2, 5], &[1.0, 2.0, 7.0, 9.0, 22.0, 3.0, 2.0, 1.0, 0.0, 0.0])],
    );
}

#[test]
fn integer_products() {
    case(
        10,
        "MatMulInteger",
        &[x(DType::U8, &[2, 3]), c(DType::I8, &[3, 2])],
        &[],
        &[(&[2, 2], &[19.0, -21.0, -6.0, 32.0])],
    );
    case(
        10,
        "MatMulInteger",
        &[
            x(DType::U8, &[2, 3]),
            c(DType::I8, &[3, 2]),
            consts(DType::U8, &[], &[3.0]),
            consts(DType::I8, &[2], &[1.0, -1.0]),
        ],
        &[],
        &[(&[2, 2], &[9.0, -26.0, -24.0, 35.0])],
    );
    case(
        10,
        "ConvInteger",
        &[x(DType::U8, &[1, 1, 3, 3]), c(DType::U8, &[1, 1, 2, 2]), consts(DType::U8, &[], &[2.0])],
        &[("pads", [1, 1, 0, 0].into())],
        &[(&[1, 1, 3, 3], &[-4.0, -2.0, 32.0, -4.0, 100.0, 49.0, 94.0, 112.0, 28.0])],
    );
    case(
        11,
        "DynamicQuantizeLinear",
        &[x(F32, &[6])],
        &[],
        &[(&[6], &[0.0, 178.0, 76.0, 254.0, 153.0, 51.0]), (&[], &[0.0098039]), (&[], &[127.0])],
    );
    case(
        10,
        "QLinearMatMul",
        &[
            x(DType::U8, &[2, 3]),
            consts(F32, &[], &[0.5]),
            consts(DType::U8, &[], &[3.0]),
            c(DType::I8, &[3, 2]),
            consts(F32, &[], &[0.25]),
            consts(DType::I8, &[], &[0.0]),
            consts(F32, &[], &[0.5]),
            consts(DType::U8, &[], &[128.0]),
        ],
        &[],
        &[(&[2, 2], &[121.0, 131.0, 132.0, 132.0])],
    );
    case(
        10,
        "QLinearConv",
        &[
            x(DType::U8, &[1, 1, 3, 3]),
            consts(F32, &[], &[0.5]),
            consts(DType::U8, &[], &[3.0]),
            c(DType::I8, &[2, 1, 2, 2]),
            consts(F32, &[2], &[0.25, 0.5]),
            consts(DType::I8, &[2], &[0.0, 0.0]),
            consts(F32, &[], &[0.5]),
            consts(DType::U8, &[], &[128.0]),
            c(DType::I32, &[2]),
        ],
        &[],
        &[(&[1, 2, 2, 2], &[120.0, 128.0, 130.0, 127.0, 126.0, 132.0, 123.0, 135.0])],
    );
}
