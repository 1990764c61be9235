//! Recurrent layers, against ONNX Runtime.

use crate::*;

#[test]
fn steps() {
    case(
        14,
        "RNN",
        &[x(F32, &[3, 2, 2]), c(F32, &[1, 2, 2]), c(F32, &[1, 2, 2]), c(F32, &[1, 4])],
        &[("hidden_size", 2.into())],
        &[
            (
                &[3, 1, 2, 2],
                &[
                    0.84828, 0.062419, 0.94809, -0.30271, -0.71495, 0.97683, -0.035931, 0.96017, 0.48242, -0.65124,
                    -0.97409, 0.92001,
                ],
            ),
            (&[1, 2, 2], &[0.48242, -0.65124, -0.97409, 0.92001]),
        ],
    );
    case(
        14,
        "GRU",
        &[x(F32, &[3, 2, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 12])],
        &[("hidden_size", 2.into())],
        &[
            (
                &[3, 1, 2, 2],
                &[
                    -0.051969, -0.62016, -0.034612, -0.66906, -0.011671, -0.27171, -0.17008, -0.2285, -0.049226,
                    -0.714, 0.16764, -0.078344,
                ],
            ),
            (&[1, 2, 2], &[-0.049226, -0.714, 0.16764, -0.078344]),
        ],
    );
    case(
        14,
        "LSTM",
        &[x(F32, &[3, 2, 2]), c(F32, &[1, 8, 2]), c(F32, &[1, 8, 2]), c(F32, &[1, 16])],
        &[("hidden_size", 2.into())],
        &[
            (
                &[3, 1, 2, 2],
                &[
                    -0.0084411, 0.2222, 0.05892, 0.20459, 0.10748, -0.37167, 0.2718, -0.31369, -0.0027557, 0.27184,
                    0.057206, -0.5438,
                ],
            ),
            (&[1, 2, 2], &[-0.0027557, 0.27184, 0.057206, -0.5438]),
            (&[1, 2, 2], &[-0.066281, 0.28577, 0.99399, -0.82855]),
        ],
    );
    case(
        14,
        "GRU",
        &[x(F32, &[3, 2, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 12])],
        &[("hidden_size", 2.into()), ("linear_before_reset", 1.into())],
        &[
            (
                &[3, 1, 2, 2],
                &[
                    -0.038669, -0.63707, -0.033919, -0.69054, 0.080056, -0.41364, -0.14675, -0.40728, 0.048298,
                    -0.73231, 0.24757, -0.3345,
                ],
            ),
            (&[1, 2, 2], &[0.048298, -0.73231, 0.24757, -0.3345]),
        ],
    );
}

#[test]
fn directions() {
    case(
        14,
        "RNN",
        &[
            x(F32, &[3, 2, 2]),
            c(F32, &[2, 2, 2]),
            c(F32, &[2, 2, 2]),
            c(F32, &[2, 4]),
            consts(DType::I32, &[2], &[3.0, 2.0]),
        ],
        &[("hidden_size", 2.into()), ("direction", "bidirectional".into())],
        &[
            (
                &[3, 2, 2, 2],
                &[
                    0.84828, 0.062419, 0.94809, -0.30271, -0.98637, 0.71774, -0.951, 0.61396, -0.71495, 0.97683,
                    -0.035931, 0.96017, 0.75997, -0.97437, 0.84828, -0.99186, 0.48242, -0.65124, 0.0, 0.0, -0.63515,
                    -0.18533, 0.0, 0.0,
                ],
            ),
            (&[2, 2, 2], &[0.48242, -0.65124, -0.035931, 0.96017, -0.98637, 0.71774, -0.951, 0.61396]),
        ],
    );
    case(
        14,
        "GRU",
        &[x(F32, &[3, 2, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 6, 2]), c(F32, &[1, 12])],
        &[("hidden_size", 2.into()), ("direction", "reverse".into())],
        &[
            (
                &[3, 1, 2, 2],
                &[
                    -0.046414, -0.70382, -0.068894, -0.61047, -0.0059524, -0.28186, -0.027192, 0.28329, -0.047,
                    -0.63767, 0.26864, 0.099764,
                ],
            ),
            (&[1, 2, 2], &[-0.046414, -0.70382, -0.068894, -0.61047]),
        ],
    );
    case(
        14,
        "LSTM",
        &[
            x(F32, &[3, 2, 2]),
            c(F32, &[2, 8, 2]),
            c(F32, &[2, 8, 2]),
            c(F32, &[2, 16]),
            consts(DType::I32, &[2], &[3.0, 2.0]),
        ],
        &[("hidden_size", 2.into()), ("direction", "bidirectional".into())],
        &[
            (
                &[3, 2, 2, 2],
                &[
                    -0.0084411, 0.2222, 0.05892, 0.20459, 0.13339, -0.013404, 0.039615, -0.41434, 0.10748, -0.37167,
                    0.2718, -0.31369, 0.033455, 0.1604, 0.0096206, 0.0, -0.0027557, 0.27184, 0.0, 0.0, 0.033415,
                    -0.18852, 0.0, 0.0,
                ],
            ),
            (&[2, 2, 2], &[-0.0027557, 0.27184, 0.2718, -0.31369, 0.13339, -0.013404, 0.039615, -0.41434]),
            (&[2, 2, 2], &[-0.066281, 0.28577, 1.0857, -0.55989, 0.17346, -0.017701, 0.063845, -0.52534]),
        ],
    );
}

#[test]
fn peepholes() {
    case(
        14,
        "LSTM",
        &[
            x(F32, &[2, 1, 2]),
            c(F32, &[1, 8, 2]),
            c(F32, &[1, 8, 2]),
            None,
            None,
            c(F32, &[1, 1, 2]),
            c(F32, &[1, 1, 2]),
            c(F32, &[1, 6]),
        ],
        &[("hidden_size", 2.into())],
        &[
            (&[2, 1, 1, 2], &[-0.10939, 0.11545, -0.088928, 0.20222]),
            (&[1, 1, 2], &[-0.088928, 0.20222]),
            (&[1, 1, 2], &[-0.19547, 0.24934]),
        ],
    );
}

fn texts(names: &[&str]) -> Attr {
    names.iter().map(|n| n.to_string()).collect::<Vec<_>>().into()
}

#[test]
fn activations_and_clip() {
    case(
        14,
        "GRU",
        &[
            x(F32, &[3, 2, 2]),
            c(F32, &[2, 6, 2]),
            c(F32, &[2, 6, 2]),
            c(F32, &[2, 12]),
            consts(DType::I32, &[2], &[3.0, 2.0]),
        ],
        &[
            ("hidden_size", 2.into()),
            ("direction", "bidirectional".into()),
            ("linear_before_reset", 1.into()),
            ("clip", 0.6.into()),
            ("activations", texts(&["HardSigmoid", "LeakyRelu", "Affine", "Softsign"])),
            ("activation_alpha", vec![0.3, 0.1, 0.7].into()),
            ("activation_beta", vec![0.4, 0.2].into()),
        ],
        &[
            (
                &[3, 2, 2, 2],
                &[
                    -0.0252, -0.0468, -0.0252, -0.0468, 0.57717, -0.14975, -0.030453, 0.1425, 0.087911, -0.03693,
                    -0.039816, -0.038656, -0.54395, -0.47137, -0.1425, 0.0, 0.025789, -0.054925, 0.0, 0.0, 0.4575,
                    0.1425, 0.0, 0.0,
                ],
            ),
            (&[2, 2, 2], &[0.025789, -0.054925, -0.039816, -0.038656, 0.57717, -0.14975, -0.030453, 0.1425]),
        ],
    );
    case(
        14,
        "LSTM",
        &[x(F32, &[3, 1, 2]), c(F32, &[1, 8, 2]), c(F32, &[1, 8, 2]), c(F32, &[1, 16])],
        &[
            ("hidden_size", 2.into()),
            ("input_forget", 1.into()),
            ("activations", texts(&["Sigmoid", "ScaledTanh", "Elu"])),
            ("activation_alpha", vec![0.8, 0.5].into()),
            ("activation_beta", vec![0.9].into()),
        ],
        &[
            (&[3, 1, 1, 2], &[-0.0028868, 0.16699, 0.063531, 0.24542, 0.13672, -0.12132]),
            (&[1, 1, 2], &[0.13672, -0.12132]),
            (&[1, 1, 2], &[0.67987, -0.46813]),
        ],
    );
    for (attrs, want) in [
        (
            vec![("activations", texts(&["ThresholdedRelu"])), ("activation_alpha", vec![0.2].into())],
            [1.25, 0.0, 2.125, 0.9375, 0.0, 3.5],
        ),
        (
            vec![("activations", texts(&["Softplus"])), ("clip", 1.0.into())],
            [1.3133, 0.72489, 1.3133, 1.3133, 0.31326, 1.3133],
        ),
    ] {
        let args = [x(F32, &[3, 1, 2]), c(F32, &[1, 2, 2]), c(F32, &[1, 2, 2]), c(F32, &[1, 4])];
        case(14, "RNN", &args, &attrs, &[(&[3, 1, 1, 2], &want), (&[1, 1, 2], &want[4..])]);
    }
}

/// A model whose batch and sequence are named gives what one with numbers gives, and is no longer.
#[test]
fn sequences_of_any_length() {
    let model = |input: &str| {
        Model::new(14)
            .input("x", input)
            .constant("w", &ramp(F32, &[2, 8, 2], 1))
            .constant("r", &ramp(F32, &[2, 8, 2], 2))
            .node("LSTM", &["x", "w", "r"], &["y", "h"], &[("direction", "bidirectional".into())])
            .untyped_output("y")
            .untyped_output("h")
    };
    let import = |m: Model| import_bytes(m.bytes(), "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let any = import(model("f32[T,B,2]")).module;
    let layers =
        any.funcs[any.main().unwrap()].nodes.values().filter(|n| matches!(n.op, tersor_ir::Op::Recurrence(_))).count();
    assert_eq!(layers, 2);
    for (t, b) in [(1, 1), (5, 3), (2000, 1)] {
        let fixed = import(model(&format!("f32[{t},{b},2]"))).module;
        let inputs = [ramp(F32, &[t, b, 2], 0)];
        let (got, want) = (interp::run(&any, &inputs).unwrap(), interp::run(&fixed, &inputs).unwrap());
        assert_eq!(
            got.iter().map(Tensor::to_f64).collect::<Vec<_>>(),
            want.iter().map(Tensor::to_f64).collect::<Vec<_>>()
        );
        assert_eq!(got[0].shape(), [t, 2, b, 2]);
    }
}

#[test]
fn weights_as_codes() {
    let (i8, u8) = (DType::I8, DType::U8);
    let scales: Vec<f64> = (1..=8).map(|i| 0.1 * f64::from(i)).collect();
    let zeros = || consts(i8, &[1, 8], &[0.0; 8]);
    let state = [0.10086, -0.16659, 0.0076375, 0.13922];
    // The hidden state before the only step is 0, which codes stand for exactly.
    case(
        14,
        "com.microsoft:DynamicQuantizeLSTM",
        &[
            x(F32, &[1, 2, 2]),
            c(i8, &[1, 2, 8]),
            c(i8, &[1, 2, 8]),
            c(F32, &[1, 16]),
            None,
            None,
            None,
            None,
            consts(F32, &[1, 8], &scales),
            zeros(),
            consts(F32, &[1, 8], &[0.05; 8]),
            zeros(),
        ],
        &[("hidden_size", 2.into())],
        &[(&[1, 1, 2, 2], &state), (&[1, 2, 2], &state), (&[1, 2, 2], &[0.91933, -0.17814, 0.03184, 0.177])],
    );
    let state = [0.13375, -0.16446, 0.38455, 0.14562, -0.13043, -0.09853, -0.018362, -0.40481];
    case(
        14,
        "com.microsoft:DynamicQuantizeLSTM",
        &[
            x(F32, &[1, 2, 2]),
            c(u8, &[2, 2, 8]),
            c(u8, &[2, 2, 8]),
            None,
            None,
            None,
            x(F32, &[2, 2, 2]),
            None,
            consts(F32, &[2], &[0.1, 0.2]),
            consts(u8, &[2], &[3.0, 5.0]),
            consts(F32, &[2], &[0.05, 0.04]),
            consts(u8, &[2], &[5.0, 4.0]),
        ],
        &[("hidden_size", 2.into()), ("direction", "bidirectional".into())],
        &[
            (&[1, 2, 2, 2], &state),
            (&[2, 2, 2], &state),
            (&[2, 2, 2], &[0.30168, -0.32018, 0.78589, 0.29217, -0.32607, -0.17717, -0.027524, -1.023]),
        ],
    );
}
