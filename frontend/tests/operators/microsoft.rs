//! Operators of ONNX Runtime, against it.

use crate::*;

#[test]
fn activations() {
    case(17, "com.microsoft:Gelu", &[x(F32, &[4])], &[], &[(&[4], &[-0.13206, 0.34573, -0.15427, 1.1179])]);
    case(
        17,
        "com.microsoft:BiasGelu",
        &[x(F32, &[2, 3]), c(F32, &[3])],
        &[],
        &[(&[2, 3], &[-0.070104, 1.6799, -0.10032, 0.58003, 1.3998, -0.15427])],
    );
    case(
        17,
        "com.microsoft:FastGelu",
        &[x(F32, &[2, 3]), c(F32, &[3])],
        &[],
        &[(&[2, 3], &[-0.070205, 1.6798, -0.10032, 0.57996, 1.3996, -0.15429])],
    );
    case(17, "com.microsoft:QuickGelu", &[x(F32, &[4])], &[], &[(&[4], &[-0.13307, 0.35039, -0.14961, 1.1169])]);
}

#[test]
fn norms() {
    case(
        17,
        "com.microsoft:SkipLayerNormalization",
        &[x(F32, &[1, 2, 4]), x(F32, &[1, 2, 4]), c(F32, &[4]), c(F32, &[4]), c(F32, &[4])],
        &[("epsilon", 0.01f32.into())],
        &[(&[1, 2, 4], &[0.68378, -1.1484, -1.0666, 0.75, 1.3158, -0.31581, -1.4211, 0.75])],
    );
    case(
        17,
        "com.microsoft:SkipSimplifiedLayerNormalization",
        &[x(F32, &[1, 2, 4]), x(F32, &[1, 2, 4]), c(F32, &[4])],
        &[("epsilon", 0.01f32.into())],
        &[(&[1, 2, 4], &[-0.3438, -1.0314, -0.19646, 0.0, 0.37844, 0.68119, 0.0, 0.0])],
    );
    case(
        17,
        "SimplifiedLayerNormalization",
        &[x(F32, &[2, 4]), c(F32, &[4])],
        &[("epsilon", 0.01f32.into())],
        &[(&[2, 4], &[0.65294, 0.65294, -0.13059, -0.97941, -0.19375, -1.4531, 0.38749, -0.0])],
    );
}

#[test]
fn products() {
    case(
        17,
        "com.microsoft:FusedMatMul",
        &[x(F32, &[3, 2]), x(F32, &[3, 2])],
        &[("transA", 1.into()), ("alpha", 0.5f32.into())],
        &[(&[2, 2], &[0.375, -0.59375, -0.34375, -0.15625])],
    );
    case(
        17,
        "com.microsoft:MatMulNBits",
        &[
            x(F32, &[2, 16]),
            consts(
                DType::U8,
                &[2, 1, 8],
                &[0.0, 37.0, 74.0, 111.0, 148.0, 185.0, 222.0, 3.0, 40.0, 77.0, 114.0, 151.0, 188.0, 225.0, 6.0, 43.0],
            ),
            consts(F32, &[2], &[0.5, 0.25]),
        ],
        &[("K", 16.into()), ("N", 2.into()), ("bits", 4.into()), ("block_size", 16.into())],
        &[(&[2, 2], &[1.75, -3.625, 1.5, -4.625])],
    );
    case(
        17,
        "com.microsoft:MatMulNBits",
        &[
            x(F32, &[2, 32]),
            consts(
                DType::U8,
                &[2, 2, 8],
                &[
                    0.0, 37.0, 74.0, 111.0, 148.0, 185.0, 222.0, 3.0, 40.0, 77.0, 114.0, 151.0, 188.0, 225.0, 6.0,
                    43.0, 80.0, 117.0, 154.0, 191.0, 228.0, 9.0, 46.0, 83.0, 120.0, 157.0, 194.0, 231.0, 12.0, 49.0,
                    86.0, 123.0,
                ],
            ),
            consts(F32, &[4], &[0.5, 0.25, 1.0, 2.0]),
            consts(DType::U8, &[2, 1], &[115.0, 30.0]),
        ],
        &[("K", 32.into()), ("N", 2.into()), ("bits", 4.into()), ("block_size", 16.into())],
        &[(&[2, 2], &[-2.25, -6.75, -2.0, -9.25])],
    );
}

/// At accuracy level 4 rows are codes of 8 bits, block by block; where blocks do not divide them, or beside weights of 2 bits in blocks of 16, they stay as they are.
#[test]
fn products_of_rounded_rows() {
    let bytes = |n: usize| (0..n).map(|i| f64::from((i * 37 % 256) as u8)).collect::<Vec<_>>();
    let run = |depth: usize, bits: usize, scales: &[f64], zeros: Option<Arg>, want: &[f64]| {
        let blocks = depth.div_ceil(16);
        let codes = consts(DType::U8, &[2, blocks, 2 * bits], &bytes(4 * blocks * bits));
        let args = [x(F32, &[2, depth]), codes, consts(F32, &[scales.len()], scales), zeros];
        let attrs = [("K", depth), ("N", 2), ("bits", bits), ("block_size", 16), ("accuracy_level", 4)];
        let attrs = attrs.map(|(name, v)| (name, (v as i64).into()));
        case(17, "com.microsoft:MatMulNBits", &args, &attrs, &[(&[2, 2], want)]);
    };
    run(16, 4, &[0.5, 0.25], None, &[1.7765746, -3.6294296, 1.5108252, -4.618602]);
    let zeros = || consts(DType::U8, &[2, 1], &[115.0, 30.0]);
    run(32, 4, &[0.5, 0.25, 1.0, 2.0], zeros(), &[-2.2268705, -6.6141734, -1.980807, -9.251967]);
    run(24, 4, &[0.5, 0.25, 1.0, 2.0], zeros(), &[1.0, 10.75, 5.125, 31.75]);
    run(16, 8, &[0.005, 0.025], None, &[0.04867129, -0.90231234, -0.39473414, 1.1759348]);
    run(16, 2, &[0.5, 0.25], None, &[1.0, 0.375, 0.25, 0.0625]);
}

#[test]
fn functions_of_codes() {
    let s = |v: f64| consts(F32, &[], &[v]);
    let z = |v: f64| consts(DType::U8, &[], &[v]);
    let codes = |shape: &[usize]| x(DType::U8, shape);
    let run = |op: &str, args: &[Option<Arg>], attrs: &[(&str, Attr)], want: Want| {
        case(17, &format!("com.microsoft:{op}"), args, attrs, &[want]);
    };
    let two = || [codes(&[2, 3]), s(0.5), z(3.0), codes(&[3]), s(0.25), z(2.0), s(0.31), z(4.0)];
    run("QLinearAdd", &two(), &[], (&[2, 3], &[5.0, 13.0, 3.0, 21.0, 11.0, 2.0]));
    run("QLinearMul", &two(), &[], (&[2, 3], &[0.0, 9.0, 4.0, 24.0, 8.0, 4.0]));
    let one = [codes(&[5]), s(0.5), z(3.0), s(0.01), z(4.0)];
    run("QLinearSigmoid", &one, &[], (&[5], &[22.0, 92.0, 54.0, 101.0, 86.0]));
    let one = |shape: &[usize]| [codes(shape), s(0.5), z(5.0), s(0.21), z(20.0)];
    let alpha = [("alpha", 0.1.into())];
    run("QLinearLeakyRelu", &one(&[5]), &alpha, (&[5], &[19.0, 25.0, 20.0, 32.0, 22.0]));
    let last = |v: i64| [("channels_last", v.into())];
    run("QLinearGlobalAveragePool", &one(&[1, 2, 2, 2]), &last(0), (&[1, 2, 1, 1], &[20.0, 21.0]));
    run("QLinearGlobalAveragePool", &one(&[1, 2, 2, 2]), &last(1), (&[1, 1, 1, 2], &[19.0, 22.0]));
    let sides = [
        s(0.21),
        z(20.0),
        codes(&[2, 2]),
        s(0.5),
        z(3.0),
        consts(DType::U8, &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        s(0.25),
        z(2.0),
    ];
    let want = [27.0, 18.0, 19.0, 20.0, 34.0, 25.0, 21.0, 22.0];
    run("QLinearConcat", &sides, &[("axis", 1.into())], (&[2, 4], &want));
    let one = [codes(&[2, 4]), s(0.5), z(3.0), s(1.0 / 256.0), z(0.0)];
    let attrs = [("axis", 1.into()), ("opset", 13.into())];
    run("QLinearSoftmax", &one, &attrs, (&[2, 4], &[1.0, 45.0, 6.0, 203.0, 41.0, 6.0, 184.0, 25.0]));
}

#[test]
fn products_of_codes_as_floats() {
    let w = || consts(DType::U8, &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let f = |v: &[f64]| consts(F32, &[v.len()], v);
    let u = |v: &[f64]| consts(DType::U8, &[v.len()], v);
    let bias = || f(&[1.0, 2.0]);
    case(
        17,
        "com.microsoft:MatMulIntegerToFloat",
        &[x(DType::U8, &[2, 3]), w(), f(&[0.5]), f(&[0.25, 0.5]), u(&[3.0]), u(&[2.0]), bias()],
        &[],
        &[(&[2, 2], &[1.75, 3.75, -1.0, 0.25])],
    );
    case(
        17,
        "com.microsoft:DynamicQuantizeMatMul",
        &[x(F32, &[2, 3]), w(), f(&[0.25, 0.5]), u(&[2.0, 1.0]), bias()],
        &[],
        &[(&[2, 2], &[1.37255, 1.5, 0.00490195, 0.764706])],
    );
}

#[test]
fn turned_by_angles_of_tables() {
    let run = |shape: &[usize], ids: Option<Arg>, wide: usize, attrs: &[(&str, Attr)], want: &[f64]| {
        let table =
            |v: [[f64; 2]; 3]| consts(F32, &[3, wide], &v.iter().flat_map(|r| r[..wide].to_vec()).collect::<Vec<_>>());
        let (cos, sin) =
            (table([[1.0, 1.0], [0.5, 0.25], [-0.5, 0.75]]), table([[0.0, 0.0], [0.75, 0.5], [0.25, -0.5]]));
        case(17, "com.microsoft:RotaryEmbedding", &[x(F32, shape), ids, cos, sin], attrs, &[(shape, want)]);
    };
    let row = [
        -0.25, -0.5, -1.1875, 0.5625, -0.625, -0.1875, 0.6875, -0.375, 0.5625, -0.0625, -0.125, -1.3125, -0.5625,
        -0.25, -0.5, 0.4375,
    ];
    let heads = |n: i64| ("num_heads", n.into());
    let each = || consts(DType::I64, &[1, 2], &[1.0, 2.0]);
    run(&[1, 2, 8], each(), 2, &[heads(2)], &row);
    run(&[1, 2, 8], ints(&[1]), 2, &[], &row);
    let pairs =
        [0.5, -0.5625, 0.25, 1.1875, 0.25, -0.75, 1.0, 0.0, 0.3125, -0.625, -0.8125, -0.8125, 0.5, -0.5, 1.25, 0.25];
    let ids = consts(DType::I64, &[1, 2], &[2.0, 0.0]);
    run(&[1, 2, 2, 4], ids, 2, &[("interleaved", 1.into())], &pairs);
    let part =
        [-1.0, -0.6875, -0.5, 1.25, 0.6875, -0.1875, 1.0, 0.0, 0.3125, -0.625, -0.25, -1.25, -0.125, 0.375, 1.25, 0.25];
    run(&[1, 2, 8], each(), 1, &[heads(2), ("rotary_embedding_dim", 2.into())], &part);
}

#[test]
fn embeddings() {
    case(
        17,
        "com.microsoft:EmbedLayerNormalization",
        &[
            consts(DType::I32, &[2, 2], &[1.0, 2.0, 0.0, 3.0]),
            consts(DType::I32, &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
            x(F32, &[4, 4]),
            x(F32, &[3, 4]),
            x(F32, &[2, 4]),
            x(F32, &[4]),
            x(F32, &[4]),
            consts(DType::I32, &[2, 2], &[1.0, 0.0, 1.0, 1.0]),
        ],
        &[("epsilon", 0.01f32.into())],
        &[
            (
                &[2, 2, 4],
                &[
                    0.18419, -1.0263, 1.0395, 0.88161, 0.56764, 0.10872, 2.0887, 0.70992, 0.18419, -1.0263, 1.0395,
                    0.88161, 0.56764, 0.10872, 2.0887, 0.70992,
                ],
            ),
            (&[2], &[1.0, 2.0]),
            (
                &[2, 2, 4],
                &[0.5, 0.25, 0.0, -0.25, -0.75, -1.0, 1.5, -1.5, 0.25, 0.0, -0.25, -0.5, -0.5, -0.75, 1.75, -1.25],
            ),
        ],
    );
    case(
        17,
        "com.microsoft:EmbedLayerNormalization",
        &[
            consts(DType::I32, &[2, 2], &[1.0, 2.0, 0.0, 3.0]),
            None,
            x(F32, &[4, 4]),
            x(F32, &[3, 4]),
            None,
            x(F32, &[4]),
            x(F32, &[4]),
        ],
        &[("epsilon", 0.01f32.into())],
        &[
            (
                &[2, 2, 4],
                &[
                    0.41505, -2.1991, 0.57037, 0.41991, 0.45016, 1.2444, 1.9478, 0.34968, 0.19336, 1.2376, 1.0456,
                    -0.036194, 0.6431, -1.0111, 1.945, 0.86327,
                ],
            ),
            (&[2], &[0.0, 0.0]),
        ],
    );
    case(
        17,
        "com.microsoft:EmbedLayerNormalization",
        &[
            consts(DType::I32, &[2, 2], &[1.0, 2.0, 0.0, 3.0]),
            None,
            x(F32, &[4, 4]),
            x(F32, &[3, 4]),
            None,
            x(F32, &[4]),
            x(F32, &[4]),
            None,
            consts(DType::I32, &[2, 2], &[1.0, 2.0, 0.0, 1.0]),
        ],
        &[("epsilon", 0.01f32.into())],
        &[
            (
                &[2, 2, 4],
                &[
                    0.6431, -1.0111, 1.945, 0.86327, 0.19336, 1.2376, 1.0456, -0.036194, 0.19336, 1.2376, 1.0456,
                    -0.036194, 0.6431, -1.0111, 1.945, 0.86327,
                ],
            ),
            (&[2], &[0.0, 0.0]),
        ],
    );
    case(
        21,
        "com.microsoft:GatherBlockQuantized",
        &[
            consts(
                DType::U8,
                &[2, 16],
                &[
                    112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0, 146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0,
                    146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0, 146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0,
                    180.0, 146.0,
                ],
            ),
            consts(DType::I64, &[2], &[1.0, 0.0]),
            x(F32, &[2, 2]),
        ],
        &[("bits", 4.into()), ("block_size", 16.into()), ("quantize_axis", 1.into()), ("gather_axis", 0.into())],
        &[(
            &[2, 32],
            &[
                -8.0, -1.0, 6.0, -3.0, 4.0, -5.0, 2.0, -7.0, 0.0, 7.0, -2.0, 5.0, -4.0, 3.0, -6.0, 1.0, -0.0, -0.0,
                0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -2.0, -0.25, 1.5, -0.75,
                1.0, -1.25, 0.5, -1.75, 0.0, 1.75, -0.5, 1.25, -1.0, 0.75, -1.5, 0.25, 6.0, 0.75, -4.5, 2.25, -3.0,
                3.75, -1.5, 5.25, -0.0, -5.25, 1.5, -3.75, 3.0, -2.25, 4.5, -0.75,
            ],
        )],
    );
    case(
        21,
        "com.microsoft:GatherBlockQuantized",
        &[
            consts(
                DType::U8,
                &[2, 16],
                &[
                    112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0, 146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0,
                    146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0, 180.0, 146.0, 112.0, 94.0, 60.0, 26.0, 248.0, 214.0,
                    180.0, 146.0,
                ],
            ),
            consts(DType::I64, &[1], &[1.0]),
            x(F32, &[2, 2]),
            consts(DType::U8, &[2, 1], &[33.0, 67.0]),
        ],
        &[("bits", 4.into()), ("block_size", 16.into()), ("quantize_axis", 1.into()), ("gather_axis", 0.into())],
        &[(
            &[1, 32],
            &[
                -3.0, 4.0, 11.0, 2.0, 9.0, 0.0, 7.0, -2.0, 5.0, 12.0, 3.0, 10.0, 1.0, 8.0, -1.0, 6.0, -0.0, 0.0, 0.0,
                0.0, 0.0, -0.0, 0.0, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.0, 0.0,
            ],
        )],
    );
    case(
        21,
        "com.microsoft:GatherBlockQuantized",
        &[x(DType::U8, &[2, 16]), consts(DType::I64, &[1], &[1.0]), x(F32, &[2, 1])],
        &[("bits", 8.into()), ("block_size", 16.into()), ("quantize_axis", 1.into()), ("gather_axis", 0.into())],
        &[(
            &[1, 16],
            &[94.5, 89.25, 92.25, 95.25, 90.0, 93.0, 96.0, 90.75, 93.75, 88.5, 91.5, 94.5, 89.25, 92.25, 95.25, 90.0],
        )],
    );
}

#[test]
fn windows_of_codes() {
    case(
        17,
        "com.microsoft:QLinearAveragePool",
        &[
            x(DType::U8, &[1, 1, 4, 4]),
            consts(F32, &[], &[0.1]),
            consts(DType::U8, &[], &[3.0]),
            consts(F32, &[], &[0.0311]),
            consts(DType::U8, &[], &[25.0]),
        ],
        &[("kernel_shape", vec![2, 2].into()), ("strides", vec![1, 1].into()), ("pads", vec![1, 0, 0, 1].into())],
        &[(
            &[1, 1, 4, 4],
            &[27.0, 31.0, 36.0, 48.0, 27.0, 32.0, 37.0, 39.0, 29.0, 34.0, 30.0, 23.0, 31.0, 35.0, 31.0, 25.0],
        )],
    );
    case(
        17,
        "com.microsoft:QLinearAveragePool",
        &[
            x(DType::U8, &[1, 1, 4, 4]),
            consts(F32, &[], &[0.1]),
            consts(DType::U8, &[], &[3.0]),
            consts(F32, &[], &[0.0311]),
            consts(DType::U8, &[], &[25.0]),
        ],
        &[
            ("kernel_shape", vec![3, 3].into()),
            ("strides", vec![2, 2].into()),
            ("pads", vec![1, 1, 1, 1].into()),
            ("count_include_pad", 1.into()),
        ],
        &[(&[1, 1, 2, 2], &[26.0, 31.0, 28.0, 32.0])],
    );
    case(
        17,
        "com.microsoft:QLinearAveragePool",
        &[
            x(DType::U8, &[1, 4, 4, 2]),
            consts(F32, &[], &[0.1]),
            consts(DType::U8, &[], &[3.0]),
            consts(F32, &[], &[0.0311]),
            consts(DType::U8, &[], &[25.0]),
        ],
        &[("kernel_shape", vec![2, 2].into()), ("strides", vec![2, 2].into()), ("channels_last", 1.into())],
        &[(&[1, 2, 2, 2], &[22.0, 35.0, 41.0, 28.0, 28.0, 33.0, 30.0, 35.0])],
    );
    // ONNX Runtime has it on other devices only: the numbers are those of Conv between transpositions.
    case(
        17,
        "com.microsoft:NhwcConv",
        &[x(F32, &[1, 4, 4, 2]), c(F32, &[3, 3, 3, 2]), c(F32, &[3])],
        &[("kernel_shape", vec![3, 3].into()), ("pads", vec![1, 1, 1, 1].into()), ("strides", vec![2, 2].into())],
        &[(
            &[1, 2, 2, 3],
            &[1.8125, -2.0625, 4.375, 1.3125, 1.1875, -0.3125, 1.0, -2.8125, 5.0625, -2.3125, 1.625, -2.0],
        )],
    );
}

#[test]
fn products_of_codes() {
    use DType::{I8, I32, U8};
    let a = [3.0, 200.0, 17.0, 90.0, 1.0, 255.0];
    let run = |trans_b: bool, c: bool, alpha: f32, coded: bool, want: &[f64]| {
        let b = if trans_b { [5.0, 100.0, -128.0, -7.0, 3.0, 127.0] } else { [5.0, -7.0, 100.0, 3.0, -128.0, 127.0] };
        let mut args = vec![
            consts(U8, &[2, 3], &a),
            consts(F32, &[], &[0.02]),
            consts(U8, &[], &[7.0]),
            consts(I8, if trans_b { &[2, 3] } else { &[3, 2] }, &b),
            consts(F32, &[2], &[0.5, 0.25]),
            consts(I8, &[2], &[0.0, 0.0]),
        ];
        args.push(c.then(|| consts(I32, &[2], &[1000.0, -500.0])).flatten());
        if coded {
            args.extend([consts(F32, &[], &[1.5]), consts(U8, &[], &[100.0])]);
        }
        let attrs = [("transB", i64::from(trans_b).into()), ("alpha", alpha.into())];
        case(17, "com.microsoft:QGemm", &args, &attrs, &[(&[2, 2], want)]);
    };
    run(false, false, 1.0, false, &[180.0, 9.385, -319.29, 154.485]);
    run(false, true, 1.0, false, &[190.0, 6.885, -309.29, 151.985]);
    run(true, true, 0.5, false, &[95.0, 3.4425, -154.645, 75.9925]);
    run(false, true, 1.0, true, &[227.0, 105.0, 0.0, 201.0]);
}
