//! Images read between pixels, against ONNX Runtime and the reference of ONNX.

use crate::*;

#[test]
fn grids() {
    case(
        16,
        "GridSample",
        &[x(F32, &[1, 2, 3, 3]), x(F32, &[1, 2, 2, 2])],
        &[("mode", "bilinear".into()), ("padding_mode", "zeros".into()), ("align_corners", 0.into())],
        &[(&[1, 2, 2, 2], &[0.09375, 0.10938, -0.375, 0.4375, 0.0, -0.54688, 0.625, 0.10938])],
    );
    case(
        16,
        "GridSample",
        &[x(F32, &[1, 2, 3, 3]), x(F32, &[1, 2, 2, 2])],
        &[("mode", "bilinear".into()), ("padding_mode", "border".into()), ("align_corners", 1.into())],
        &[(&[1, 2, 2, 2], &[0.5, 0.1875, -0.75, 1.0625, -0.25, -0.39062, 1.25, 0.3125])],
    );
    case(
        16,
        "GridSample",
        &[x(F32, &[1, 2, 3, 3]), x(F32, &[1, 2, 2, 2])],
        &[("mode", "nearest".into()), ("padding_mode", "zeros".into()), ("align_corners", 1.into())],
        &[(&[1, 2, 2, 2], &[1.0, 0.5, -0.75, 1.0, 0.25, -0.25, 1.25, 0.25])],
    );
    case(
        16,
        "GridSample",
        &[x(F32, &[1, 2, 3, 3]), x(F32, &[1, 2, 2, 2])],
        &[("mode", "bicubic".into()), ("padding_mode", "zeros".into()), ("align_corners", 0.into())],
        &[(&[1, 2, 2, 2], &[0.092679, 0.30853, -0.46875, 0.52274, -0.0040584, -0.78376, 0.78906, 0.18692])],
    );
    case(
        16,
        "GridSample",
        &[x(F32, &[1, 2, 3, 3]), x(F32, &[1, 2, 2, 2])],
        &[("mode", "bilinear".into()), ("padding_mode", "reflection".into()), ("align_corners", 0.into())],
        &[(&[1, 2, 2, 2], &[0.75, 0.125, -0.75, 1.0, 0.0, -0.625, 1.25, 0.25])],
    );
}

#[test]
fn affine() {
    case(
        20,
        "AffineGrid",
        &[x(F32, &[1, 2, 3]), ints(&[1, 1, 2, 3])],
        &[],
        &[(
            &[1, 2, 3, 2],
            &[0.083333, -1.7083, -0.75, -0.875, -1.5833, -0.041667, 0.58333, -1.4583, -0.25, -0.625, -1.0833, 0.20833],
        )],
    );
    case(
        20,
        "AffineGrid",
        &[x(F32, &[1, 3, 4]), ints(&[1, 1, 2, 1, 2])],
        &[("align_corners", 1.into())],
        &[(&[1, 2, 1, 2, 3], &[2.5, -0.5, -0.75, 0.0, 0.0, -2.75, 1.5, 1.5, -1.25, -1.0, 2.0, -3.25])],
    );
}

#[test]
fn regions() {
    case(
        16,
        "RoiAlign",
        &[
            x(F32, &[1, 2, 4, 4]),
            consts(F32, &[2, 4], &[0.0, 0.0, 2.0, 3.0, 1.0, 1.0, 3.5, 2.0]),
            consts(DType::I64, &[2], &[0.0, 0.0]),
        ],
        &[("output_height", 2.into()), ("output_width", 2.into()), ("sampling_ratio", 2.into())],
        &[(
            &[2, 2, 2, 2],
            &[
                -0.66992, -0.019531, -0.42578, 0.11719, -0.16992, 0.37305, 0.074219, 0.48828, -0.17578, 0.50781,
                -0.11328, 0.3125, -0.12695, -0.53906, -0.064453, -0.47656,
            ],
        )],
    );
    case(
        10,
        "RoiAlign",
        &[x(F32, &[1, 1, 4, 4]), consts(F32, &[1, 4], &[0.0, 0.0, 2.0, 3.0]), consts(DType::I64, &[1], &[0.0])],
        &[
            ("output_height", 2.into()),
            ("output_width", 1.into()),
            ("sampling_ratio", 1.into()),
            ("mode", "max".into()),
        ],
        &[(&[1, 1, 2, 1], &[0.125, 0.5625])],
    );
}

#[test]
fn deformed() {
    case(
        19,
        "DeformConv",
        &[x(F32, &[1, 2, 3, 3]), c(F32, &[2, 2, 2, 2]), c(F32, &[1, 8, 2, 2])],
        &[],
        &[(&[1, 2, 2, 2], &[-0.46875, -1.3789, 0.10547, 0.35156, -0.5, -1.4062, 0.44531, 0.14062])],
    );
    case(
        19,
        "DeformConv",
        &[x(F32, &[1, 2, 3, 3]), c(F32, &[2, 1, 2, 2]), c(F32, &[1, 8, 2, 2]), c(F32, &[2]), c(F32, &[1, 4, 2, 2])],
        &[("group", 2.into())],
        &[(&[1, 2, 2, 2], &[0.81836, 0.98828, 0.85938, 1.5977, -0.16406, -0.60938, -0.39844, -0.45703])],
    );
}

#[test]
fn shrinking_without_aliases() {
    let sizes = |s: &[f64]| consts(F32, &[s.len()], s);
    case(
        18,
        "Resize",
        &[x(F32, &[1, 1, 2, 5]), None, sizes(&[1.0, 1.0, 1.0, 0.6])],
        &[("mode", "linear".into()), ("antialias", 1.into())],
        &[(&[1, 1, 2, 3], &[-0.59375, 0.111111, 0.625, -0.09375, 0.0, 0.09375])],
    );
    case(
        18,
        "Resize",
        &[x(F32, &[1, 1, 2, 8]), None, sizes(&[1.0, 1.0, 1.0, 0.5])],
        &[("mode", "cubic".into()), ("antialias", 1.into())],
        &[(&[1, 1, 2, 4], &[-0.541016, 0.537598, 0.0922852, 0.306152, -0.145996, -0.420898, -0.0175781, 0.604492])],
    );
}

#[test]
fn crops_and_kept_ratios() {
    case(
        18,
        "Resize",
        &[
            x(F32, &[1, 1, 4, 4]),
            consts(F32, &[8], &[0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7]),
            None,
            ints(&[1, 1, 2, 3]),
        ],
        &[
            ("mode", "linear".into()),
            ("coordinate_transformation_mode", "tf_crop_and_resize".into()),
            ("extrapolation_value", 10.0.into()),
        ],
        &[(&[1, 1, 2, 3], &[0.51, 10.0, 10.0, 10.0, 10.0, 10.0])],
    );
    let kept = |policy: &'static str| {
        [("mode", "nearest".into()), ("keep_aspect_ratio_policy", policy.into()), ("axes", [2, 3].into())]
    };
    case(
        18,
        "Resize",
        &[x(F32, &[1, 1, 2, 4]), None, None, ints(&[3, 5])],
        &kept("not_larger"),
        &[(&[1, 1, 3, 5], &[-1.25, 0.5, 0.5, -0.5, 1.25, 0.25, -0.75, -0.75, 1.0, 0.0, 0.25, -0.75, -0.75, 1.0, 0.0])],
    );
    case(
        18,
        "Resize",
        &[x(F32, &[1, 1, 2, 4]), None, None, ints(&[3, 5])],
        &kept("not_smaller"),
        &[(
            &[1, 1, 3, 6],
            &[
                -1.25, -1.25, 0.5, -0.5, -0.5, 1.25, -1.25, -1.25, 0.5, -0.5, -0.5, 1.25, 0.25, 0.25, -0.75, 1.0, 1.0,
                0.0,
            ],
        )],
    );
}
