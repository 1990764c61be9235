//! Steps of optimizers, against the reference of ONNX.

use crate::*;

#[test]
fn optimizers() {
    case(
        20,
        "ai.onnx.preview.training:Adagrad",
        &[
            consts(F32, &[], &[0.1]),
            consts(DType::I64, &[], &[2.0]),
            x(F32, &[2]),
            x(F32, &[2]),
            consts(F32, &[2], &[2.0, 1.0]),
        ],
        &[("norm_coefficient", 0.5f32.into()), ("decay_factor", Attr::Float(0.25)), ("epsilon", Attr::Float(0.125))],
        &[(&[2], &[0.21118, -0.72904]), (&[2], &[3.2656, 1.1406])],
    );
    case(
        20,
        "ai.onnx.preview.training:Adam",
        &[
            consts(F32, &[], &[0.1]),
            consts(DType::I64, &[], &[2.0]),
            x(F32, &[2]),
            x(F32, &[2]),
            consts(F32, &[2], &[2.0, 1.0]),
            consts(F32, &[2], &[2.0, 1.0]),
        ],
        &[
            ("norm_coefficient", 0.5f32.into()),
            ("alpha", Attr::Float(0.5)),
            ("beta", Attr::Float(0.25)),
            ("epsilon", Attr::Float(0.125)),
        ],
        &[(&[2], &[0.098199, -0.80594]), (&[2], &[1.5625, 0.3125]), (&[2], &[1.4492, 0.35547])],
    );
    case(
        20,
        "ai.onnx.preview.training:Momentum",
        &[
            consts(F32, &[], &[0.1]),
            consts(DType::I64, &[], &[2.0]),
            x(F32, &[2]),
            x(F32, &[2]),
            consts(F32, &[2], &[2.0, 1.0]),
        ],
        &[
            ("norm_coefficient", 0.5f32.into()),
            ("alpha", Attr::Float(0.5)),
            ("beta", Attr::Float(0.25)),
            ("mode", "nesterov".into()),
        ],
        &[(&[2], &[0.073437, -0.73281]), (&[2], &[1.2812, 0.40625])],
    );
    case(
        20,
        "ai.onnx.preview.training:Momentum",
        &[
            consts(F32, &[], &[0.1]),
            consts(DType::I64, &[], &[0.0]),
            x(F32, &[2]),
            x(F32, &[2]),
            consts(F32, &[2], &[2.0, 1.0]),
        ],
        &[
            ("norm_coefficient", 0.5f32.into()),
            ("alpha", Attr::Float(0.5)),
            ("beta", Attr::Float(0.25)),
            ("mode", "standard".into()),
        ],
        &[(&[2], &[0.0375, -0.7625]), (&[2], &[2.125, 0.125])],
    );
}
