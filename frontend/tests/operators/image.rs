//! Encoded images. What decoders make of each format is for ONNX's own cases.

use crate::*;
use tersor_frontend::ImportOptions;

/// 2 x 3 pixels: red, green, blue; white, gray, black.
const PNM: &[u8] = b"P3 3 2 255 255 0 0 0 255 0 0 0 255 255 255 255 100 100 100 0 0 0\n";

fn model(attrs: &[(&str, Attr)], output: &str) -> Model {
    Model::new(20).input("x", "u8[N]").node("ImageDecoder", &["x"], &["y"], attrs).output("y", output)
}

fn bytes(b: &[u8]) -> Tensor {
    Tensor::from_f64(DType::U8, [b.len()], &b.iter().map(|&b| f64::from(b)).collect::<Vec<_>>())
}

#[test]
fn images_of_any_size_up_to_a_limit() {
    let mut options = ImportOptions::default();
    options.limits.set("image_extent", 3).unwrap();
    let run = |m: &Model, image: &[u8]| {
        let m = import_bytes(m.bytes(), "image", &options).unwrap_or_else(|e| panic!("{}", e[0])).module;
        assert!(verify(&m).is_empty());
        interp::run(&m, &[bytes(image)]).map(|mut y| y.remove(0))
    };
    let gray = [("pixel_format", "Grayscale".into())];
    let y = run(&model(&gray, "u8[_,_,1]"), PNM).unwrap();
    assert_eq!((y.shape(), y.bytes().to_vec()), (&[2, 3, 1][..], vec![76, 150, 29, 255, 100, 0]));
    let y = run(&model(&[("pixel_format", "BGR".into())], "u8[2,3,3]"), PNM).unwrap();
    assert_eq!((y.shape(), y.bytes()[..6].to_vec()), (&[2, 3, 3][..], vec![0, 0, 255, 0, 255, 0]));
    let said = |m: &Model, image: &[u8]| run(m, image).unwrap_err().to_string();
    assert!(said(&model(&[], "u8[_,_,3]"), b"P3 4 1 255").contains("1 x 4 pixels, there is room for 3 x 3"));
    assert!(said(&model(&[], "u8[3,3,3]"), PNM).contains("2 x 3 pixels, expected 3 x 3"));
    assert!(said(&model(&[], "u8[_,_,3]"), b"P3 3 2 255 1 2").contains("cannot be decoded"));
}
