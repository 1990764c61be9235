//! Sparse initializers are written out.

use tersor_frontend::testing::{Model, field, number, tensor};
use tersor_ir::{DType, Tensor, interp};

fn sparse(values: &[f32], indices: &Tensor, dims: &[i64]) -> Vec<u8> {
    let mut out = vec![];
    field(&mut out, 1, &tensor("w", &Tensor::from_f32([values.len()], values)));
    field(&mut out, 2, &tensor("", indices));
    dims.iter().for_each(|&d| number(&mut out, 3, d as u64));
    out
}

fn run(values: &[f32], indices: &Tensor, dims: &[i64]) -> Result<Tensor, String> {
    let m = Model::new(17).input("x", "f32[]").graph_field(15, &sparse(values, indices, dims));
    let m = m.node("Add", &["x", "w"], &["y"], &[]).untyped_output("y");
    let imported = tersor_frontend::import_bytes(m.bytes(), "m", &Default::default()).map_err(|e| e[0].to_string())?;
    Ok(interp::run(&imported.module, &[Tensor::from_f32([], &[1.0])]).unwrap().remove(0))
}

fn indices(shape: &[usize], at: &[i64]) -> Tensor {
    Tensor::from_i64(DType::I64, shape.to_vec(), at)
}

#[test]
fn linear_indices_and_those_of_axes() {
    let want = Tensor::from_f32([2, 3], &[1.0, 6.0, 1.0, 1.0, 1.0, 8.0]);
    assert_eq!(run(&[5.0, 7.0], &indices(&[2], &[1, 5]), &[2, 3]), Ok(want.clone()));
    assert_eq!(run(&[5.0, 7.0], &indices(&[2, 2], &[0, 1, 1, 2]), &[2, 3]), Ok(want));
    assert_eq!(run(&[], &indices(&[0], &[]), &[2]), Ok(Tensor::from_f32([2], &[1.0; 2])));
}

#[test]
fn malformed_ones_are_refused() {
    for (values, at, dims, word) in [
        (&[1.0f32][..], indices(&[1], &[6]), &[2i64, 3][..], "outside"),
        (&[1.0], indices(&[1], &[-1]), &[2, 3], "outside"),
        (&[1.0], indices(&[1, 2], &[0, 3]), &[2, 3], "outside"),
        (&[1.0, 2.0], indices(&[2], &[3, 3]), &[2, 3], "ascending"),
        (&[1.0], indices(&[2], &[1, 2]), &[2, 3], "expected a list"),
        (&[1.0], indices(&[1], &[0]), &[2, -3], "negative"),
        (&[1.0], indices(&[1], &[0]), &[1 << 40, 1 << 40], "too many"),
        (&[1.0], indices(&[1], &[0]), &[1 << 40], "--limit sparse_bytes"),
    ] {
        let error = run(values, &at, dims).unwrap_err();
        assert!(error.contains(word) && error.contains("\"w\""), "{error}");
    }
}
