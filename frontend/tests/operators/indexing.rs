//! Elements by computed positions, against ONNX Runtime.

use crate::*;

#[test]
fn gathers() {
    case(
        13,
        "GatherElements",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2, 2], &[2.0, 0.0, -1.0, 1.0])],
        &[("axis", 1.into())],
        &[(&[2, 2], &[-0.5, -1.25, -0.75, 0.25])],
    );
    case(
        13,
        "GatherElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[1, 2], &[-1.0, 1.0])],
        &[("axis", 0.into())],
        &[(&[1, 2], &[0.25, 1.25])],
    );
    case(
        13,
        "GatherND",
        &[x(F32, &[2, 3, 2]), consts(DType::I64, &[2, 2], &[1.0, 2.0, 0.0, -1.0])],
        &[],
        &[(&[2, 2], &[-0.25, -1.25, 0.25, -0.75])],
    );
    case(
        13,
        "GatherND",
        &[x(F32, &[2, 3, 2]), consts(DType::I64, &[2, 1], &[1.0, 2.0])],
        &[("batch_dims", 1.into())],
        &[(&[2, 2], &[-0.5, 1.25, -0.25, -1.25])],
    );
    case(
        11,
        "Compress",
        &[x(F32, &[2, 3]), consts(DType::Bool, &[3], &[1.0, 0.0, 1.0])],
        &[("axis", 1.into())],
        &[(&[2, 2], &[-1.25, -0.5, 1.25, -0.75])],
    );
    case(
        11,
        "Compress",
        &[x(F32, &[2, 3]), consts(DType::Bool, &[5], &[0.0, 1.0, 0.0, 0.0, 1.0])],
        &[],
        &[(&[2], &[0.5, 0.25])],
    );
}

#[test]
fn turned_sequences() {
    case(
        10,
        "ReverseSequence",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2], &[3.0, 2.0])],
        &[],
        &[(&[3, 2], &[0.25, 1.25, -0.5, 0.5, -1.25, -0.75])],
    );
    case(
        10,
        "ReverseSequence",
        &[x(F32, &[2, 3]), consts(DType::I64, &[2], &[1.0, 3.0])],
        &[("batch_axis", 0.into()), ("time_axis", 1.into())],
        &[(&[2, 3], &[-1.25, 0.5, -0.5, -0.75, 0.25, 1.25])],
    );
}

#[test]
fn largest() {
    case(
        11,
        "TopK",
        &[x(F32, &[2, 5]), ints(&[2])],
        &[],
        &[(&[2, 2], &[1.25, 0.5, 1.0, 0.75]), (&[2, 2], &[3.0, 1.0, 1.0, 4.0])],
    );
    case(
        11,
        "TopK",
        &[x(F32, &[5, 2]), ints(&[3])],
        &[("axis", 0.into()), ("largest", 0.into())],
        &[(&[3, 2], &[-1.25, -0.75, -1.0, 0.0, -0.5, 0.5]), (&[3, 2], &[0.0, 2.0, 4.0, 3.0, 1.0, 0.0])],
    );
    case(
        11,
        "TopK",
        &[consts(F32, &[5], &[1.0, 2.0, 1.0, 2.0, 0.0]), ints(&[4])],
        &[],
        &[(&[4], &[2.0, 2.0, 1.0, 1.0]), (&[4], &[1.0, 3.0, 0.0, 2.0])],
    );
}

#[test]
fn caches() {
    case(
        24,
        "TensorScatter",
        &[x(F32, &[2, 4, 1]), x(F32, &[2, 2, 1]), consts(DType::I64, &[2], &[1.0, 2.0])],
        &[],
        &[(&[2, 4, 1], &[-1.25, -0.5, 1.25, 1.25, 0.25, -0.75, 0.25, -0.75])],
    );
    case(
        24,
        "TensorScatter",
        &[x(F32, &[2, 4, 1]), x(F32, &[2, 2, 1]), consts(DType::I64, &[2], &[3.0, 2.0])],
        &[("mode", "circular".into())],
        &[(&[2, 4, 1], &[1.25, 0.5, -0.5, -0.5, 0.25, -0.75, 0.25, -0.75])],
    );
    case(
        24,
        "TensorScatter",
        &[x(F32, &[2, 4, 1]), x(F32, &[2, 2, 1])],
        &[],
        &[(&[2, 4, 1], &[-0.5, 1.25, -0.5, 1.25, 0.25, -0.75, 1.0, 0.0])],
    );
}

#[test]
fn rows_written_by_number() {
    case(
        18,
        "ScatterElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[0.0, -1.0, 0.0, 1.0]), x(F32, &[2, 2])],
        &[("reduction", "none".into())],
        &[(&[3, 2], &[1.0, 0.5, -0.5, 0.0, 0.25, -0.75])],
    );
    case(
        18,
        "ScatterElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[0.0, -1.0, 0.0, 1.0]), x(F32, &[2, 2])],
        &[("reduction", "add".into())],
        &[(&[3, 2], &[0.0, 0.5, -0.5, 1.25, 0.25, -1.5])],
    );
    case(
        18,
        "ScatterElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[0.0, -1.0, 0.0, 1.0]), x(F32, &[2, 2])],
        &[("reduction", "mul".into())],
        &[(&[3, 2], &[-0.3125, 0.5, -0.5, 0.0, 0.25, 0.5625])],
    );
    case(
        18,
        "ScatterElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[0.0, -1.0, 0.0, 1.0]), x(F32, &[2, 2])],
        &[("reduction", "max".into())],
        &[(&[3, 2], &[1.0, 0.5, -0.5, 1.25, 0.25, -0.75])],
    );
    case(
        18,
        "ScatterElements",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[0.0, -1.0, 0.0, 1.0]), x(F32, &[2, 2])],
        &[("reduction", "min".into())],
        &[(&[3, 2], &[-1.25, 0.5, -0.5, 0.0, 0.25, -0.75])],
    );
    case(
        18,
        "ScatterND",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 1], &[2.0, 0.0]), x(F32, &[2, 2])],
        &[],
        &[(&[3, 2], &[1.0, 0.0, -0.5, 1.25, 0.25, -0.75])],
    );
    case(
        18,
        "ScatterND",
        &[x(F32, &[3, 2]), consts(DType::I64, &[2, 2], &[2.0, 0.0, 2.0, 0.0]), x(F32, &[2])],
        &[("reduction", "add".into())],
        &[(&[3, 2], &[-1.25, 0.5, -0.5, 1.25, -0.25, -0.75])],
    );
}

#[test]
fn counted_sequences() {
    let rows = || consts(DType::I32, &[2, 6], &[1.0, 1.0, 3.0, 3.0, 3.0, 7.0, 8.0, 6.0, 7.0, 5.0, 6.0, 8.0]);
    let attrs = |mode: &'static str, shortest: i64, skips: i64| {
        vec![
            ("pool_int64s", [2, 3, 5, 4, 5, 6, 7, 8, 6, 7].into()),
            ("ngram_counts", [0, 4].into()),
            ("ngram_indexes", [0, 1, 2, 3, 4, 5, 6].into()),
            ("min_gram_length", shortest.into()),
            ("max_gram_length", 2.into()),
            ("max_skip_count", skips.into()),
            ("mode", mode.into()),
        ]
    };
    let counts = [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    case(9, "TfIdfVectorizer", &[rows()], &attrs("TF", 1, 2), &[(&[2, 7], &counts)]);
    let mut weighted = attrs("IDF", 1, 2);
    weighted.push(("weights", vec![0.5f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into()));
    let once = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 4.0, 5.0, 6.0];
    case(9, "TfIdfVectorizer", &[rows()], &weighted, &[(&[2, 7], &once)]);
    weighted[6].1 = "TFIDF".into();
    let both = [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 4.0, 5.0, 6.0];
    case(9, "TfIdfVectorizer", &[rows()], &weighted, &[(&[2, 7], &both)]);
}
