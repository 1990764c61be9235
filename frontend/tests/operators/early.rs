//! Forms that operators had before opset 7, by the text of ONNX's changelog: no runtime has them all.

use crate::*;

#[test]
fn second_operands_from_an_axis_on() {
    let add = [("broadcast", 1.into()), ("axis", 0.into())];
    case(6, "Add", &[x(F32, &[2, 3]), x(F32, &[2])], &add, &[(&[2, 3], &[-1.75, 0.0, -1.0, 2.5, 1.5, 0.5])]);
    let last = [("broadcast", 1.into())];
    case(6, "Add", &[x(F32, &[2, 2]), x(F32, &[2])], &last, &[(&[2, 2], &[-1.75, 1.75, -1.0, 2.5])]);
    let slopes = [x(F32, &[1, 2, 3]), x(F32, &[2])];
    case(6, "PRelu", &slopes, &[], &[(&[1, 2, 3], &[0.625, 0.5, 0.25, 1.25, 0.25, -0.9375])]);
}

#[test]
fn attributes_that_became_inputs_or_changed() {
    let row = [-1.25, 0.5, -0.5];
    case(4, "Reshape", &[x(F32, &[1, 3])], &[("shape", [3, -1].into())], &[(&[3, 1], &row)]);
    case(1, "Cast", &[x(F32, &[3])], &[("to", "INT32".into())], &[(&[3], &[-1.0, 0.0, 0.0])]);
    let twice = [-1.25, 0.5, -1.25, 0.5, -0.5, 1.25, -0.5, 1.25];
    let (n, axis) = (ints(&[2]), ints(&[1]));
    case(1, "Tile", &[x(F32, &[2, 2]), n, axis], &[], &[(&[2, 4], &twice)]);
    case(1, "Concat", &[x(F32, &[1, 2]), x(F32, &[1, 1])], &[], &[(&[1, 3], &[-1.25, 0.5, -0.5])]);
    case(1, "Pad", &[x(F32, &[2])], &[("paddings", [1, 0].into())], &[(&[3], &[0.0, -1.25, 0.5])]);
    case(1, "Split", &[x(F32, &[3]), ints(&[2, 1])], &[], &[(&[2], &[-1.25, 0.5]), (&[1], &[-0.5])]);
}
