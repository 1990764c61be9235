//! ONNX `TensorProto` files (`input_0.pb`), by one small message.

use prost::Message;

use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::tensor::{Tensor, bytes_of, kind};

/// The fields of `onnx.TensorProto` that hold a dense tensor.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

/// The fields of `onnx.SequenceProto` that hold dense tensors, or maps of them.
#[derive(Clone, PartialEq, Message)]
struct SequenceProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "6")]
    maps: Vec<MapProto>,
}

/// The fields of `onnx.MapProto` for dense tensors as values.
#[derive(Clone, PartialEq, Message)]
struct MapProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, repeated, tag = "3")]
    keys: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    string_keys: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    values: Option<SequenceProto>,
}

/// The fields of `onnx.OptionalProto` that hold dense tensors.
#[derive(Clone, PartialEq, Message)]
struct OptionalProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "5")]
    sequence: Option<SequenceProto>,
}

const EXTERNAL: i32 = 1;

/// Reads a tensor and the name that it carries, empty when it has none.
pub fn read(bytes: &[u8]) -> Result<(String, Tensor)> {
    let t: TensorProto = decode(bytes, "TensorProto")?;
    Ok((t.name.clone(), dense(t)?))
}

fn decode<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M> {
    M::decode(bytes).map_err(|e| Error::new(Kind::Data, format!("not a {what}: {e}")))
}

/// What a file holds that is not a `TensorProto`.
#[derive(Debug)]
pub enum Item {
    /// One tensor.
    Tensor(Tensor),
    /// A list of tensors.
    Sequence(Vec<Tensor>),
    /// The keys of a map and their values; or the keys that all maps of a list have, and their values with the list's axis first.
    Map([Tensor; 2]),
    /// An optional without an element.
    Nothing,
}

/// Reads a `MapProto` of scalars and the name that it carries.
pub fn read_map(bytes: &[u8]) -> Result<(String, Item)> {
    let m: MapProto = decode(bytes, "MapProto")?;
    let (keys, values) = (m.keys()?, m.values()?);
    Ok((m.name, Item::Map([keys, gathered(&[values.len()], values)?])))
}

/// Reads a `SequenceProto` of maps of scalars that have the same keys in the same order, and the name that it carries.
pub fn read_maps(bytes: &[u8]) -> Result<(String, Item)> {
    let s: SequenceProto = decode(bytes, "SequenceProto")?;
    let first = s.maps.first().ok_or_else(|| Error::new(Kind::DataUnsupported, "a sequence without a map"))?;
    let keys = first.keys()?;
    let mut values = vec![];
    for m in &s.maps {
        if (&m.keys, &m.string_keys) != (&first.keys, &first.string_keys) {
            return Err(Error::new(Kind::DataUnsupported, "a sequence of maps of different keys"));
        }
        values.extend(m.values()?);
    }
    let shape = [s.maps.len(), values.len() / s.maps.len()];
    Ok((s.name, Item::Map([keys, gathered(&shape, values)?])))
}

impl MapProto {
    fn keys(&self) -> Result<Tensor> {
        let (dims, string_data) = (vec![(self.keys.len() + self.string_keys.len()) as i64], self.string_keys.clone());
        let data_type = if self.string_keys.is_empty() { DType::I64 } else { DType::Str } as i32;
        dense(TensorProto { dims, data_type, int64_data: self.keys.clone(), string_data, ..TensorProto::default() })
    }

    /// As many as there are keys.
    fn values(&self) -> Result<Vec<Tensor>> {
        let values = self.values.as_ref().map_or(&[][..], |v| &v.tensors);
        let keys = self.keys.len() + self.string_keys.len();
        if values.len() != keys {
            return Err(Error::new(Kind::Data, format!("a map of {keys} keys and {} values", values.len())));
        }
        values.iter().cloned().map(dense).collect()
    }
}

/// Scalars as one tensor.
fn gathered(shape: &[usize], scalars: Vec<Tensor>) -> Result<Tensor> {
    let unsupported = |what| Error::new(Kind::DataUnsupported, what);
    let dtype = scalars.first().ok_or_else(|| unsupported("a map without a key"))?.dtype();
    if dtype == DType::Str || dtype.word().is_none() {
        return Err(unsupported("a map of anything but numbers"));
    }
    if scalars.iter().any(|t| t.dtype() != dtype || t.shape().iter().product::<usize>() != 1) {
        return Err(unsupported("a map of values that are no scalars of one type"));
    }
    Tensor::from_bytes(dtype, shape, &scalars.iter().flat_map(|t| t.bytes().to_vec()).collect::<Vec<_>>())
}

/// Reads a `SequenceProto` of tensors and the name that it carries.
pub fn read_sequence(bytes: &[u8]) -> Result<(String, Vec<Tensor>)> {
    let s: SequenceProto = decode(bytes, "SequenceProto")?;
    Ok((s.name, s.tensors.into_iter().map(dense).collect::<Result<_>>()?))
}

/// Reads an `OptionalProto` of a tensor or a sequence of tensors, and the name that it carries.
pub fn read_optional(bytes: &[u8]) -> Result<(String, Item)> {
    let o: OptionalProto = decode(bytes, "OptionalProto")?;
    let item = match (o.tensor, o.sequence) {
        (Some(t), _) => Item::Tensor(dense(t)?),
        (None, Some(s)) => Item::Sequence(s.tensors.into_iter().map(dense).collect::<Result<_>>()?),
        (None, None) => Item::Nothing,
    };
    Ok((o.name, item))
}

fn dense(t: TensorProto) -> Result<Tensor> {
    let unsupported = |what: String| Error::new(Kind::DataUnsupported, what);
    let dtype = DType::try_from(t.data_type).ok().filter(|d| *d != DType::Undefined);
    let dtype = dtype.ok_or_else(|| unsupported(format!("tensor type {} is not supported", t.data_type)))?;
    if t.data_location == EXTERNAL {
        return Err(unsupported("the tensor's data lie in another file".into()));
    }
    let shape: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(|| Error::new(Kind::Data, format!("negative extent in {:?}", t.dims)))?;
    let want = bytes_of(dtype, &shape).ok_or_else(|| Error::new(Kind::Data, format!("{:?} is too large", t.dims)))?;
    if dtype == DType::Str {
        return strings(&t, &shape);
    }
    let data = match t.raw_data {
        Some(raw) => raw,
        None => typed(dtype, &t),
    };
    if data.len() != want {
        let what = format!("{} needs {want} bytes, the file has {}", kind(dtype, &shape), data.len());
        return Err(Error::new(Kind::Data, what));
    }
    let mut tensor = Tensor::from_bytes(dtype, &shape, &data)?;
    let size = dtype.word().unwrap_or(1);
    if cfg!(target_endian = "big") && size > 1 {
        tensor.bytes_mut().chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    Ok(tensor)
}

fn strings(t: &TensorProto, shape: &[usize]) -> Result<Tensor> {
    let bad = |what: String| Error::new(Kind::Data, what);
    if t.raw_data.is_some() {
        return Err(bad("strings cannot be raw data".into()));
    }
    let (want, have) = (shape.iter().product::<usize>(), t.string_data.len());
    if want != have {
        return Err(bad(format!("{} needs {want} strings, the file has {have}", kind(DType::Str, shape))));
    }
    let text = |(i, s): (usize, &Vec<u8>)| match std::str::from_utf8(s) {
        Ok(s) => Ok(s.to_owned()),
        Err(_) => Err(bad(format!("string {i} is not UTF-8"))),
    };
    Tensor::from_strings(shape, &t.string_data.iter().enumerate().map(text).collect::<Result<Vec<_>>>()?)
}

/// Little-endian bytes from the typed field that ONNX uses for this type.
fn typed(dtype: DType, t: &TensorProto) -> Vec<u8> {
    let narrow = |n: usize| t.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(n)).collect();
    match dtype {
        DType::F32 | DType::C64 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 | DType::C128 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(4)).collect(),
        DType::I32 => narrow(4),
        DType::I16 | DType::U16 | DType::F16 | DType::Bf16 => narrow(2),
        _ => narrow(1),
    }
}

/// Writes a tensor as a named `TensorProto`, with raw data unless it is one of strings. An error where a handle stands for no string.
pub fn write(name: &str, tensor: crate::tensor::TensorView) -> Result<Vec<u8>> {
    let text = tensor.to_strings().transpose()?;
    let mut raw = tensor.bytes.to_vec();
    let size = tensor.dtype.word().unwrap_or(1);
    if cfg!(target_endian = "big") && size > 1 {
        raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    let proto = TensorProto {
        dims: tensor.shape.iter().map(|&d| d as i64).collect(),
        data_type: tensor.dtype as i32,
        name: name.to_owned(),
        raw_data: text.is_none().then_some(raw),
        string_data: text.unwrap_or_default().into_iter().map(String::into_bytes).collect(),
        ..TensorProto::default()
    };
    Ok(proto.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tensors_round_trip(which in 0..DType::ALL.len(), shape in prop::collection::vec(0usize..5, 0..4)) {
            let dtype = DType::ALL[which];
            if dtype == DType::Str {
                return Ok(());
            }
            let bytes: Vec<u8> = (0..bytes_of(dtype, &shape).unwrap()).map(|i| i as u8).collect();
            let t = Tensor::from_bytes(dtype, &shape, &bytes).unwrap();
            let (name, back) = read(&write("x", t.view()).unwrap()).unwrap();
            prop_assert_eq!((name.as_str(), back.dtype(), back.shape(), back.bytes()), ("x", dtype, t.shape(), t.bytes()));
        }

        #[test]
        fn damaged_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..40, byte: u8) {
            let _ = read(&bytes);
            let mut good = write("x", Tensor::from_f32(&[2], &[1.0, 2.0]).unwrap().view()).unwrap();
            if let Some(b) = good.get_mut(at) {
                *b = byte;
            }
            let _ = read(&good);
        }
    }

    #[test]
    fn strings_round_trip_and_are_checked() {
        let words = ["", "é\n", "b", "b"];
        let t = Tensor::from_strings(&[2, 2], &words).unwrap();
        let (_, back) = read(&write("x", t.view()).unwrap()).unwrap();
        assert_eq!(
            (back.shape(), back.view().to_strings().unwrap().unwrap()),
            (&[2, 2][..], words.map(String::from).to_vec())
        );
        let proto = |strings: &[&[u8]], raw: Option<Vec<u8>>| TensorProto {
            dims: vec![1],
            data_type: DType::Str as i32,
            string_data: strings.iter().map(|s| s.to_vec()).collect(),
            raw_data: raw,
            ..TensorProto::default()
        };
        let fails = |t: TensorProto| read(&t.encode_to_vec()).unwrap_err().message;
        assert_eq!(fails(proto(&[], None)), "str[1] needs 1 strings, the file has 0");
        assert_eq!(fails(proto(&[b"\xff"], None)), "string 0 is not UTF-8");
        assert_eq!(fails(proto(&[], Some(vec![0; 4]))), "strings cannot be raw data");
        assert!(write("x", Tensor::from_bytes(DType::Str, &[1], &[9, 0, 0, 0]).unwrap().view()).is_err());
    }

    #[test]
    fn sequences_and_optionals_hold_tensors() {
        let one =
            || TensorProto { dims: vec![1], data_type: DType::F32 as i32, float_data: vec![2.5], ..Default::default() };
        let s = SequenceProto { name: "s".into(), tensors: vec![one(), one()], maps: vec![] };
        let (name, all) = read_sequence(&s.encode_to_vec()).unwrap();
        assert_eq!((name.as_str(), all.len(), all[1].to_f64().unwrap()), ("s", 2, vec![2.5]));
        let optional = |tensor, sequence| OptionalProto { name: "o".into(), tensor, sequence }.encode_to_vec();
        assert!(matches!(read_optional(&optional(Some(one()), None)).unwrap().1, Item::Tensor(_)));
        assert!(matches!(read_optional(&optional(None, Some(s))).unwrap().1, Item::Sequence(all) if all.len() == 2));
        assert!(matches!(read_optional(&optional(None, None)).unwrap().1, Item::Nothing));
        assert!(read_sequence(&[0x1a, 5, 0]).is_err());
    }

    #[test]
    fn typed_fields_are_read_by_type() {
        let decode = |t: TensorProto| read(&t.encode_to_vec()).map(|(_, t)| t);
        let ints = |dtype: DType, v: &[i32]| TensorProto {
            dims: vec![v.len() as i64],
            data_type: dtype as i32,
            int32_data: v.to_vec(),
            ..TensorProto::default()
        };
        let f64s = |t: TensorProto| decode(t).unwrap().to_f64().unwrap();
        assert_eq!(f64s(ints(DType::F16, &[0x3c00, 0xc000])), [1.0, -2.0]);
        assert_eq!(f64s(ints(DType::Bf16, &[0x3f80])), [1.0]);
        assert_eq!(f64s(ints(DType::I8, &[-3, 127])), [-3.0, 127.0]);
        assert_eq!(f64s(ints(DType::Bool, &[1, 0])), [1.0, 0.0]);
        assert_eq!(f64s(ints(DType::I32, &[-70000])), [-70000.0]);
        let c64 =
            |v: &[f32]| TensorProto { dims: vec![1], data_type: 14, float_data: v.to_vec(), ..Default::default() };
        assert_eq!(decode(c64(&[1.5, -2.0])).unwrap().bytes(), [1.5f32.to_ne_bytes(), (-2f32).to_ne_bytes()].concat());
        assert_eq!(decode(c64(&[1.5])).unwrap_err().message, "c64[1] needs 8 bytes, the file has 4");
        let mut short = ints(DType::I32, &[1, 2]);
        short.dims = vec![3];
        assert_eq!(decode(short).unwrap_err().message, "i32[3] needs 12 bytes, the file has 8");
        let mut negative = ints(DType::I32, &[]);
        negative.dims = vec![-1];
        assert_eq!(decode(negative).unwrap_err().kind, Kind::Data);
        let scalar = TensorProto { data_type: 1, float_data: vec![2.5], ..TensorProto::default() };
        assert_eq!(decode(scalar).unwrap().shape(), [0usize; 0]);
    }

    #[test]
    fn maps_read_back() {
        let scalar = |v: f32| TensorProto { data_type: DType::F32 as i32, float_data: vec![v], ..Default::default() };
        let map = |keys: &[i64], values: &[f32]| MapProto {
            keys: keys.to_vec(),
            values: Some(SequenceProto { tensors: values.iter().map(|&v| scalar(v)).collect(), ..Default::default() }),
            ..Default::default()
        };
        let shapes = |item| match item {
            Item::Map(parts) => parts.map(|t| t.shape().to_vec()),
            other => panic!("{other:?}"),
        };
        let (name, item) = read_map(&map(&[3, 1], &[0.5, 2.0]).encode_to_vec()).unwrap();
        assert_eq!((name.as_str(), shapes(item)), ("", [vec![2], vec![2]]));
        let list = |maps: &[MapProto]| SequenceProto { maps: maps.to_vec(), ..Default::default() }.encode_to_vec();
        let rows = [map(&[3, 1], &[0.5, 2.0]), map(&[3, 1], &[0.0, 1.0]), map(&[3, 1], &[4.0, 1.0])];
        assert_eq!(shapes(read_maps(&list(&rows)).unwrap().1), [vec![2], vec![3, 2]]);
        assert!(read_maps(&list(&[map(&[3, 1], &[0.5, 2.0]), map(&[1, 3], &[0.5, 2.0])])).is_err());
        assert!(read_map(&map(&[3, 1], &[0.5]).encode_to_vec()).is_err());
    }
}
