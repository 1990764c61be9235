//! ONNX in
