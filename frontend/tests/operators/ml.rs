//! Operators of `ai.onnx.ml`, against ONNX Runtime.

use crate::*;
use tersor_frontend::testing::Attr;

type Attrs = Vec<(&'static str, Attr)>;

fn floats(v: &[f32]) -> Attr {
    v.to_vec().into()
}

#[test]
fn numbers_of_features() {
    let attrs = [("offset", floats(&[0.5, 0.0, 1.0])), ("scale", floats(&[2.0, 1.0, 4.0]))];
    case(17, "ai.onnx.ml:Scaler", &[x(F32, &[2, 3])], &attrs, &[(&[2, 3], &[-3.5, 0.5, -6.0, 1.5, 0.25, -7.0])]);
    let norm = |name: &'static str, want: &[f64]| {
        case(17, "ai.onnx.ml:Normalizer", &[x(F32, &[3, 3])], &[("norm", name.into())], &[(&[3, 3], want)]);
    };
    norm("MAX", &[-2.5, 1.0, -1.0, 1.0, 0.2, -0.6, 1.0, 0.0, -1.0]);
    norm("L1", &[-0.555556, 0.222222, -0.222222, 0.555556, 0.111111, -0.333333, 0.5, 0.0, -0.5]);
    norm("L2", &[-0.870388, 0.348155, -0.348155, 0.845154, 0.169031, -0.507093, 0.707107, 0.0, -0.707107]);
    let attrs = [("threshold", 0.25.into())];
    case(17, "ai.onnx.ml:Binarizer", &[x(F32, &[6])], &attrs, &[(&[6], &[0.0, 1.0, 0.0, 1.0, 0.0, 0.0])]);
    case(
        17,
        "ai.onnx.ml:ArrayFeatureExtractor",
        &[x(F32, &[2, 4]), ints(&[3, 0])],
        &[],
        &[(&[2, 2], &[1.25, -1.25, 0.0, 0.25])],
    );
    let sides = [x(F32, &[2, 2]), x(F32, &[2, 1])];
    let attrs = [("inputdimensions", [2, 1].into())];
    case(17, "ai.onnx.ml:FeatureVectorizer", &sides, &attrs, &[(&[2, 3], &[-1.25, 0.5, -0.5, -0.5, 1.25, 1.25])]);
}

#[test]
fn values_in_place_of_others() {
    let attrs = [("imputed_value_floats", floats(&[1.0, 2.0, 3.0])), ("replaced_value_float", 0.25.into())];
    case(17, "ai.onnx.ml:Imputer", &[x(F32, &[2, 3])], &attrs, &[(&[2, 3], &[-1.25, 0.5, -0.5, 1.25, 2.0, -0.75])]);
    let attrs = [("imputed_value_int64s", [9].into()), ("replaced_value_int64", 2.into())];
    let ramp = || x(DType::I64, &[2, 3]);
    case(17, "ai.onnx.ml:Imputer", &[ramp()], &attrs, &[(&[2, 3], &[-5.0, 9.0, -2.0, 5.0, 1.0, -3.0])]);
    case(
        17,
        "ai.onnx.ml:OneHotEncoder",
        &[x(DType::I64, &[2, 2])],
        &[("cats_int64s", [-5, 2, 7].into())],
        &[(&[2, 2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])],
    );
    let attrs = [("cats_int64s", [-5, 2].into()), ("zeros", 0.into())];
    case(17, "ai.onnx.ml:OneHotEncoder", &[ints(&[2, -5])], &attrs, &[(&[2, 2], &[0.0, 1.0, 1.0, 0.0])]);
    let attrs = [
        ("keys_int64s", [2, -5, 2].into()),
        ("values_floats", floats(&[1.5, 2.5, 3.5])),
        ("default_float", 9.0.into()),
    ];
    case(17, "ai.onnx.ml:LabelEncoder", &[x(DType::I64, &[5])], &attrs, &[(&[5], &[2.5, 1.5, 9.0, 9.0, 9.0])]);
    let attrs = [("keys_floats", floats(&[0.5, -1.25])), ("values_int64s", [7, 8].into())];
    case(17, "ai.onnx.ml:LabelEncoder", &[x(F32, &[3])], &attrs, &[(&[3], &[8.0, 7.0, -1.0])]);
}

#[test]
fn linear_models() {
    let attrs = [
        ("coefficients", floats(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25])),
        ("intercepts", floats(&[0.5, -1.0])),
        ("targets", 2.into()),
    ];
    case(17, "ai.onnx.ml:LinearRegressor", &[x(F32, &[2, 3])], &attrs, &[(&[2, 2], &[-1.25, 0.375, 0.0, -2.3125])]);
    let attrs = [
        ("coefficients", floats(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25])),
        ("intercepts", floats(&[0.5, -1.0, 0.0])),
        ("classlabels_ints", [4, 5, 6].into()),
        ("post_transform", "SOFTMAX".into()),
    ];
    let scores = [0.677299, 0.00276797, 0.319933, 0.918013, 0.00177218, 0.0802151, 0.154343, 0.53871, 0.306947];
    let classifier = "ai.onnx.ml:LinearClassifier";
    case(17, classifier, &[x(F32, &[3, 2])], &attrs, &[(&[3], &[4.0, 4.0, 5.0]), (&[3, 3], &scores)]);
    let attrs = [
        ("coefficients", floats(&[1.0, 2.0])),
        ("intercepts", floats(&[0.5])),
        ("classlabels_ints", [4, 5].into()),
        ("post_transform", "LOGISTIC".into()),
    ];
    let scores = [0.437823, 0.562177, 0.0758582, 0.924142, 0.679179, 0.320821];
    case(17, classifier, &[x(F32, &[3, 2])], &attrs, &[(&[3], &[5.0, 5.0, 4.0]), (&[3, 2], &scores)]);
}

#[test]
fn support_vectors() {
    let kernel = |name: &'static str, want: [f64; 2]| {
        let attrs = [
            ("kernel_type", name.into()),
            ("kernel_params", floats(&[0.5, 0.25, 2.0])),
            ("support_vectors", floats(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0])),
            ("coefficients", floats(&[0.5, -1.0, 2.0])),
            ("n_supports", 3.into()),
            ("rho", floats(&[0.125])),
        ];
        case(17, "ai.onnx.ml:SVMRegressor", &[x(F32, &[2, 2])], &attrs, &[(&[2, 1], &want)]);
    };
    kernel("LINEAR", [-0.5, 2.5]);
    kernel("POLY", [-0.367188, 1.77734]);
    kernel("RBF", [-0.0232456, 1.29208]);
    kernel("SIGMOID", [0.349817, 1.28599]);
}

/// A classifier of `sizes` support vectors of each class, with numbers that go up and down.
fn classifier(sizes: &[i64], kernel: &'static str, probabilities: bool, transform: &'static str) -> Attrs {
    let (k, vectors) = (sizes.len(), sizes.iter().sum::<i64>() as usize);
    let pairs = k * (k - 1) / 2;
    let numbers = |n: usize, by: usize, from: usize, scale: f32, base: f32| -> Attr {
        let one = |i: usize| base + scale * (((i * by + from) % 9) as f32 - 4.0);
        (0..n).map(one).collect::<Vec<f32>>().into()
    };
    let mut attrs = vec![
        ("kernel_type", kernel.into()),
        ("kernel_params", floats(&[0.5, 0.25, 2.0])),
        ("vectors_per_class", sizes.into()),
        ("support_vectors", numbers(2 * vectors, 5, 2, 0.25, 0.0)),
        ("coefficients", numbers((k - 1) * vectors, 2, 1, 0.25, 0.0)),
        ("rho", numbers(pairs, 1, 3, 0.125, 0.0)),
        ("classlabels_ints", (4..4 + k as i64).collect::<Vec<_>>().into()),
        ("post_transform", transform.into()),
    ];
    if probabilities {
        attrs.extend([("prob_a", numbers(pairs, 4, 6, -0.125, -1.0)), ("prob_b", numbers(pairs, 2, 5, 0.125, 0.0))]);
    }
    attrs
}

#[test]
fn classes_by_support_vectors() {
    let classes = |sizes: &[i64], kernel, probabilities, transform, labels: &[f64; 4], scores: &[f64]| {
        let attrs = classifier(sizes, kernel, probabilities, transform);
        let want: [Want; 2] = [(&[4], labels), (&[4, scores.len() / 4], scores)];
        case(17, "ai.onnx.ml:SVMClassifier", &[x(F32, &[4, 2])], &attrs, &want);
    };
    let scores = [0.770368, -0.770368, 1.00417, -1.00417, 0.121655, -0.121655, 0.286248, -0.286248];
    classes(&[2, 1], "RBF", false, "NONE", &[5.0; 4], &scores);
    let scores = [0.658033, 0.341967, 0.699203, 0.300797, 0.510008, 0.489992, 0.52829, 0.47171];
    classes(&[2, 1], "POLY", false, "LOGISTIC", &[5.0; 4], &scores);
    let scores = [1.74533, -0.745327, 1.91395, -0.91395, 0.877495, 0.122505, 1.09486, -0.0948586];
    classes(&[2, 1], "SIGMOID", false, "SOFTMAX", &[5.0, 5.0, 4.0, 5.0], &scores);
    let scores = [0.16389, 0.83611, 0.098271, 0.901729, 0.700895, 0.299105, 0.565892, 0.434109];
    classes(&[2, 1], "LINEAR", true, "NONE", &[5.0, 5.0, 4.0, 4.0], &scores);
    let scores = [
        0.266705, 0.277609, 0.455685, 0.268235, 0.273821, 0.457944, 0.261669, 0.372569, 0.365762, 0.260479, 0.374709,
        0.364812,
    ];
    classes(&[1, 2, 1], "SIGMOID", false, "SOFTMAX", &[6.0, 6.0, 4.0, 5.0], &scores);
    let scores = [
        0.177651, 0.487168, 0.335181, 0.156636, 0.467334, 0.37603, 0.296573, 0.444673, 0.258754, 0.277658, 0.449368,
        0.272974,
    ];
    classes(&[1, 2, 1], "POLY", true, "NONE", &[6.0, 6.0, 5.0, 5.0], &scores);
    let scores = [
        0.526066, 0.601062, 0.619105, 0.519134, 0.576942, 0.64867, 0.624241, 0.574516, 0.547881, 0.595076, 0.593494,
        0.558871,
    ];
    classes(&[1, 2, 1], "LINEAR", true, "LOGISTIC", &[6.0, 6.0, 4.0, 4.0], &scores);
    let scores = [
        0.201136, 0.339657, 0.284275, 0.174933, 0.196305, 0.321748, 0.298388, 0.183558, 0.232926, 0.314842, 0.280165,
        0.172067, 0.208307, 0.34014, 0.298804, 0.152749,
    ];
    classes(&[1, 2, 1, 2], "RBF", true, "NONE", &[4.0, 4.0, 5.0, 5.0], &scores);
    let scores = [
        -1.20312, -0.515625, 2.28125, 0.671875, -0.234375, -1.0, -1.67188, -0.796875, 2.23438, 0.484375, -0.328125,
        -0.625, 0.78125, 0.46875, -1.07812, 0.125, 0.78125, 1.125, 0.3125, 0.1875, -1.125, -0.0625, 0.6875, 1.5,
    ];
    classes(&[1, 2, 1, 2], "LINEAR", false, "NONE", &[5.0, 5.0, 4.0, 4.0], &scores);
    // Without vectors, one score for each class.
    let mut attrs = classifier(&[1, 1, 1], "LINEAR", false, "SOFTMAX");
    attrs.retain(|(name, _)| !["vectors_per_class", "support_vectors"].contains(name));
    let scores = [
        0.37333, 0.176349, 0.450322, 0.253419, 0.536489, 0.210092, 0.365006, 0.221387, 0.413606, 0.222366, 0.604455,
        0.173179,
    ];
    let want: [Want; 2] = [(&[4], &[6.0, 5.0, 6.0, 5.0]), (&[4, 3], &scores)];
    case(17, "ai.onnx.ml:SVMClassifier", &[x(F32, &[4, 2])], &attrs, &want);
}

/// Two trees; the first has two levels.
fn trees(of: [&'static str; 4], ids: [i64; 5], weights: [f32; 5]) -> Attrs {
    let modes = ["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"];
    vec![
        ("nodes_treeids", [0, 0, 0, 0, 0, 1, 1, 1].into()),
        ("nodes_nodeids", [0, 1, 2, 3, 4, 0, 1, 2].into()),
        ("nodes_featureids", [0, 1, 0, 0, 0, 1, 0, 0].into()),
        ("nodes_truenodeids", [1, 3, 0, 0, 0, 1, 0, 0].into()),
        ("nodes_falsenodeids", [2, 4, 0, 0, 0, 2, 0, 0].into()),
        ("nodes_values", floats(&[0.25, -0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0])),
        ("nodes_modes", Attr::Texts(modes.map(String::from).to_vec())),
        (of[0], [0, 0, 0, 1, 1].into()),
        (of[1], [2, 3, 4, 1, 2].into()),
        (of[2], ids.into()),
        (of[3], floats(&weights)),
    ]
}

const TARGET: [&str; 4] = ["target_treeids", "target_nodeids", "target_ids", "target_weights"];
const CLASS: [&str; 4] = ["class_treeids", "class_nodeids", "class_ids", "class_weights"];

#[test]
fn regression_by_trees() {
    let regressor = "ai.onnx.ml:TreeEnsembleRegressor";
    let mut attrs = trees(TARGET, [0, 1, 0, 0, 1], [1.0, 2.0, 3.0, 4.0, 5.0]);
    attrs.push(("n_targets", 2.into()));
    let want = [0.0, 7.0, 0.0, 7.0, 7.0, 0.0, 5.0, 0.0, 0.0, 7.0];
    case(17, regressor, &[x(F32, &[5, 2])], &attrs, &[(&[5, 2], &want)]);
    let mut attrs = trees(TARGET, [0; 5], [1.0, 2.0, 3.0, 4.0, 5.0]);
    attrs.push(("base_values", floats(&[0.5])));
    case(17, regressor, &[x(F32, &[5, 2])], &attrs, &[(&[5, 1], &[7.5, 7.5, 7.5, 5.5, 7.5])]);
    for (kind, want) in [("AVERAGE", [3.5, 3.5, 3.5, 2.5, 3.5]), ("MAX", [5.0, 5.0, 4.0, 4.0, 5.0])] {
        let mut attrs = trees(TARGET, [0; 5], [1.0, 2.0, 3.0, 4.0, 5.0]);
        attrs.extend([("n_targets", 1.into()), ("aggregate_function", kind.into())]);
        case(17, regressor, &[x(F32, &[5, 2])], &attrs, &[(&[5, 1], &want)]);
    }
    // The first of two weights that a leaf has.
    let mut attrs = trees(TARGET, [0; 5], [1.0, 2.0, 3.0, 4.0, 5.0]);
    attrs.truncate(attrs.len() - TARGET.len());
    attrs.extend([
        (TARGET[0], [0, 0, 0, 1, 1, 0, 1].into()),
        (TARGET[1], [2, 3, 4, 1, 2, 2, 1].into()),
        (TARGET[2], [0; 7].into()),
        (TARGET[3], floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])),
    ]);
    case(17, regressor, &[x(F32, &[5, 2])], &attrs, &[(&[5, 1], &[7.0, 7.0, 7.0, 5.0, 7.0])]);
}

#[test]
fn classes_by_trees() {
    let classifier = "ai.onnx.ml:TreeEnsembleClassifier";
    let mut attrs = trees(CLASS, [0, 1, 2, 0, 1], [1.0, 2.0, 3.0, 4.0, 5.0]);
    attrs.extend([("classlabels_int64s", [7, 8, 9].into()), ("post_transform", "SOFTMAX".into())]);
    let scores = [
        0.000910222,
        0.99818,
        0.000910222,
        0.000910222,
        0.99818,
        0.000910222,
        0.721399,
        0.0132129,
        0.265388,
        0.986703,
        0.00664835,
        0.00664835,
        0.000910222,
        0.99818,
        0.000910222,
    ];
    let labels: Want = (&[5], &[8.0, 8.0, 7.0, 7.0, 8.0]);
    case(17, classifier, &[x(F32, &[5, 2])], &attrs, &[labels, (&[5, 3], &scores)]);
    let labels: Want = (&[5], &[7.0, 7.0, 8.0, 8.0, 7.0]);
    let mut attrs = trees(CLASS, [0; 5], [0.1, -0.2, 0.3, 0.15, -0.5]);
    attrs.push(("classlabels_int64s", [7, 8].into()));
    let mut logistic = attrs.clone();
    logistic.push(("post_transform", "LOGISTIC".into()));
    let scores = [0.668188, 0.331812, 0.668188, 0.331812, 0.389361, 0.610639, 0.437823, 0.562177, 0.668188, 0.331812];
    case(17, classifier, &[x(F32, &[5, 2])], &logistic, &[labels, (&[5, 2], &scores)]);
    attrs.push(("base_values", floats(&[0.25])));
    let scores = [0.45, -0.45, 0.45, -0.45, -0.7, 0.7, -0.5, 0.5, 0.45, -0.45];
    case(17, classifier, &[x(F32, &[5, 2])], &attrs, &[labels, (&[5, 2], &scores)]);
}
