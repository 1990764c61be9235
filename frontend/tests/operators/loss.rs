//! Losses, against ONNX Runtime.

use crate::*;

#[test]
fn likelihoods() {
    case(
        13,
        "NegativeLogLikelihoodLoss",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2], &[2.0, 0.0])],
        &[],
        &[(&[], &[-0.375])],
    );
    case(
        13,
        "NegativeLogLikelihoodLoss",
        &[x(F32, &[2, 3, 2]), consts(DType::I64, &[2, 2], &[2.0, 0.0, 1.0, 1.0]), c(F32, &[3])],
        &[("reduction", "none".into())],
        &[(&[2, 2], &[-0.25, -0.125, -0.75, 0.5625])],
    );
    case(
        13,
        "NegativeLogLikelihoodLoss",
        &[x(F32, &[2, 3, 2]), consts(DType::I64, &[2, 2], &[2.0, 0.0, 1.0, 1.0]), c(F32, &[3])],
        &[("ignore_index", 2.into())],
        &[(&[], &[0.25])],
    );
    case(
        13,
        "NegativeLogLikelihoodLoss",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2], &[2.0, 0.0])],
        &[("reduction", "sum".into()), ("ignore_index", 2.into())],
        &[(&[], &[-1.25])],
    );
}

#[test]
fn entropies() {
    case(
        13,
        "SoftmaxCrossEntropyLoss",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2], &[2.0, 0.0])],
        &[],
        &[(&[], &[0.92023]), (&[2, 3], &[-2.1829, -0.43286, -1.4329, -0.40761, -1.4076, -2.4076])],
    );
    case(
        13,
        "SoftmaxCrossEntropyLoss",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2], &[2.0, 0.0]), consts(F32, &[3], &[0.5, 1.0, 2.0])],
        &[],
        &[(&[], &[1.2278])],
    );
}
