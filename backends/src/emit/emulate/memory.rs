//! Memory that kernels run on in tests: buffers of exact size, 64-byte aligned, the same for the emulator and for native code.

/// Element types that buffers are written from and read as.
pub trait Element: Copy {
    fn put(self, out: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($ty:ty),*) => {$(
        impl Element for $ty {
            fn put(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("bytes of one element"))
            }
        }
    )*};
}

elements!(i8, u8, i16, u16, i32, u32, i64, u64, f32, f64, half::f16, half::bf16);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A zeroed buffer.
#[derive(Clone)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0; 64]); len.div_ceil(64).max(1)], len }
    }

    pub fn from_slice<T: Element>(values: &[T]) -> Self {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|v| v.put(&mut bytes));
        let mut buffer = Self::zeroed(bytes.len());
        buffer.bytes_mut().copy_from_slice(&bytes);
        buffer
    }

    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        self.bytes().chunks_exact(size_of::<T>()).map(T::get).collect()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `lines` holds at least `len` initialised bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// What a kernel is called with. Operands are indices into `buffers`, so that an in-place pair names one buffer twice.
#[derive(Clone, Default)]
pub struct Call {
    pub buffers: Vec<Buffer>,
    pub args: Vec<usize>,
    pub dims: Vec<i64>,
    pub scratch: usize,
    pub range: (i64, i64),
}

impl Call {
    /// A call over the grid `0..grid`.
    pub fn new(grid: i64) -> Self {
        Self { range: (0, grid), ..Self::default() }
    }

    /// Adds a buffer as the next operand and returns its index.
    pub fn arg<T: Element>(&mut self, values: &[T]) -> usize {
        self.push(Buffer::from_slice(values))
    }

    /// Adds a zeroed buffer of `len` elements of `T` as the next operand and returns its index.
    pub fn out<T: Element>(&mut self, len: usize) -> usize {
        self.push(Buffer::zeroed(len * size_of::<T>()))
    }

    fn push(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.args.push(self.buffers.len() - 1);
        self.buffers.len() - 1
    }

    pub fn dim(&mut self, extent: usize) {
        self.dims.push(extent as i64);
    }

    /// The contents of a buffer.
    pub fn read<T: Element>(&self, index: usize) -> Vec<T> {
        self.buffers[index].to_vec()
    }
}
