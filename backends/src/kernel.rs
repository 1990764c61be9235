//! What a kernel family gets and gives: a group of nodes in, one kernel with its operands out.
//!
//! A [`Group`] is what fusion made one step of; a family's `build` turns it into a [`Launch`] with a [`LaunchBuilder`]. Extents that are known are
//! constants in the kernel, the others become its `dims`; the same code serves both.

use crate::emit::{Kernel, KernelBuilder, Val};
use foldhash::HashMap;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use tersor_ir::module::NodeId;
use tersor_ir::{DType, Def, Dim, Func, Module, Tensor, Type, ValueId, interp};

/// An instruction set that one variant of an artifact is for.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Isa {
    /// AVX2, FMA, F16C: 16 vector registers of 8 floats.
    V3,
    /// AVX-512 F/BW/DQ/VL and VNNI: 32 vector registers of 16 floats.
    V4,
    /// [`Isa::V4`] with AMX tiles for int8 and bf16.
    Amx,
}

/// A form in which kernels can be looked at or linked.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// What the emitters write.
    Mlir,
    /// LLVM's text after its passes.
    Llvm,
    /// Assembly.
    Assembly,
    /// A relocatable ELF object.
    Object,
}

impl Isa {
    /// Every variant, the most capable first.
    pub const ALL: [Isa; 3] = [Isa::Amx, Isa::V4, Isa::V3];
    /// Name in targets and kernel names.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::V3 => "x86-64-v3",
            Isa::V4 => "x86-64-v4+vnni",
            Isa::Amx => "x86-64+amx",
        }
    }
    /// The last part of kernel names.
    pub const fn suffix(self) -> &'static str {
        match self {
            Isa::V3 => "avx2",
            Isa::V4 => "avx512",
            Isa::Amx => "amx",
        }
    }
    /// Floats in a vector register.
    pub const fn lanes(self) -> u32 {
        match self {
            Isa::V3 => 8,
            _ => 16,
        }
    }
    /// Whether vectors have 512 bits.
    pub const fn wide(self) -> bool {
        !matches!(self, Isa::V3)
    }
    /// Whether tiles exist.
    pub const fn tiles(self) -> bool {
        matches!(self, Isa::Amx)
    }
}

/// Nodes that become one step. Nodes are in program order; values between them that nobody else uses never reach memory.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The node whose kernel family runs the group; `None` when all nodes are elementwise or moves.
    pub anchor: Option<NodeId>,
    /// All nodes, the anchor among them.
    pub nodes: Vec<NodeId>,
    /// Values from outside that the nodes read, constants among them, in order of first use.
    pub inputs: Vec<ValueId>,
    /// Values that others read or that the function returns.
    pub outputs: Vec<ValueId>,
}

/// Constants of a loop whose numbers its kernel holds. Where there are more it reads them, so that long runs of like steps share a kernel.
const NUMBERS: usize = 8;

impl Group {
    /// The number that all elements of a constant are, where the group's kernel holds it and does not read it.
    pub fn number(&self, m: &Module, f: &Func, v: ValueId) -> Option<f64> {
        let c = &m.consts[f.def_const(v)?];
        let constants = || self.inputs.iter().filter(|&&v| f.def_const(v).is_some());
        let held = self.anchor.is_some() || constants().nth(NUMBERS).is_none();
        c.splat().filter(|&x| held && is_exact(c.ty.dtype, x))
    }
}

/// Whether a number is the element itself.
pub fn is_exact(dtype: DType, x: f64) -> bool {
    dtype.is_float() || x.abs() < 2f64.powi(53)
}

/// A tensor in memory: an affine view of a buffer, in elements.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// The value whose buffer it looks at.
    pub root: ValueId,
    /// First element.
    pub offset: Dim,
    /// Distance of neighbours along each axis.
    pub strides: Vec<Dim>,
}

impl View {
    /// Dense and row-major.
    pub fn dense(root: ValueId, ty: &Type) -> View {
        let mut strides = vec![Dim::from(1); ty.rank()];
        for i in (1..ty.rank()).rev() {
            strides[i - 1] = strides[i].clone() * ty.shape[i].clone();
        }
        View { root, offset: 0.into(), strides }
    }
}

/// A group with everything around it.
pub struct GroupCx<'a> {
    /// The module.
    pub m: &'a Module,
    /// The function.
    pub f: &'a Func,
    /// The group.
    pub group: &'a Group,
    /// The instruction set.
    pub isa: Isa,
    /// Views of inputs that are not dense buffers of their own (transposed, sliced, reshaped); others are dense.
    pub views: &'a HashMap<ValueId, View>,
    /// Encoded weights that the kernel takes decoded, so that their encoding saves nothing in memory.
    pub decoded: RefCell<BTreeSet<ValueId>>,
}

impl<'a> GroupCx<'a> {
    /// A group of a function's body.
    pub fn new(
        m: &'a Module,
        f: &'a Func,
        group: &'a Group,
        isa: Isa,
        views: &'a HashMap<ValueId, View>,
    ) -> GroupCx<'a> {
        GroupCx { m, f, group, isa, views, decoded: RefCell::default() }
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.f.values[v].ty
    }
    /// Where an input's elements are. Outputs are always dense.
    pub fn view(&self, v: ValueId) -> View {
        self.views.get(&v).cloned().unwrap_or_else(|| View::dense(v, self.ty(v)))
    }
    /// The elements of an input that depends on constants alone, computed by the reference evaluation where it is an expression (a decoded weight).
    /// `None` for other values, and where the store lacks the elements.
    pub fn constant(&self, v: ValueId) -> Option<Tensor> {
        let t = interp::constant(&self.m.consts, self.f, v)?;
        if encoded_bytes(self.m, self.f, v).is_some() {
            self.decoded.borrow_mut().insert(v);
        }
        Some(t)
    }
    /// Whether a value depends on constants alone whose elements are there.
    pub fn is_constant(&self, v: ValueId) -> bool {
        interp::is_constant(&self.m.consts, self.f, v)
    }
    /// The number that a constant's elements are, where the kernel holds it.
    pub fn number(&self, v: ValueId) -> Option<f64> {
        self.group.number(self.m, self.f, v)
    }
    /// Whether a value is made inside the group.
    pub fn inside(&self, v: ValueId) -> bool {
        matches!(self.f.values[v].def, Def::Node(n, _) if self.group.nodes.contains(&n))
    }
}

/// Bytes of the constants of an expression that some `decode` is in; `None` where there is none, or where it needs more than constants.
pub fn encoded_bytes(m: &Module, f: &Func, v: ValueId) -> Option<u64> {
    let (mut seen, mut stack) = (BTreeSet::from([v]), vec![v]);
    let (mut bytes, mut consts, mut decodes) = (0, BTreeSet::new(), false);
    while let Some(v) = stack.pop() {
        match f.values[v].def {
            Def::Param(..) => return None,
            Def::Const(c) if consts.insert(c) => bytes += m.consts[c].byte_len() as u64,
            Def::Const(_) => {}
            Def::Node(n, _) => {
                decodes |= f.nodes[n].op.decodes();
                stack.extend(f.nodes[n].operands.iter().filter(|&&v| seen.insert(v)));
            }
        }
    }
    decodes.then_some(bytes)
}

/// An operand of a launch, in the order of the kernel's arguments.
#[derive(Clone, Debug)]
pub enum Operand {
    /// The buffer of a value that the kernel reads (the root of its view).
    Read(ValueId),
    /// The buffer of a value that the kernel writes.
    Write(ValueId),
    /// A constant made at compile time: elements in the layout of that name.
    Packed {
        /// Layout, such as `f32 [N/16][K][16]`.
        layout: String,
        /// Elements in that order.
        data: Tensor,
    },
}

/// A kernel and how to call it.
#[derive(Debug)]
pub struct Launch {
    /// The kernel. Its name says operand types, op, tile and instruction set; lowering adds a number.
    pub kernel: Kernel,
    /// One for each kernel argument.
    pub args: Vec<Operand>,
    /// One for each kernel dim.
    pub dims: Vec<Dim>,
    /// Grid points.
    pub grid: Dim,
    /// Scratch bytes for each thread.
    pub scratch: Dim,
    /// Fewest grid points worth a thread.
    pub grain: Dim,
}

/// A [`KernelBuilder`] that keeps the operands and extents beside the kernel's arguments.
pub struct LaunchBuilder {
    kernel: KernelBuilder,
    args: Vec<Operand>,
    pointers: HashMap<(ValueId, bool), Val>,
    dims: Vec<Dim>,
    dim_values: HashMap<Dim, Val>,
}

impl Deref for LaunchBuilder {
    type Target = KernelBuilder;
    fn deref(&self) -> &KernelBuilder {
        &self.kernel
    }
}

impl DerefMut for LaunchBuilder {
    fn deref_mut(&mut self) -> &mut KernelBuilder {
        &mut self.kernel
    }
}

impl LaunchBuilder {
    /// An empty kernel.
    pub fn new(name: impl Into<String>) -> LaunchBuilder {
        let kernel = KernelBuilder::new(name);
        LaunchBuilder {
            kernel,
            args: vec![],
            pointers: HashMap::default(),
            dims: vec![],
            dim_values: HashMap::default(),
        }
    }
    /// The pointer of a buffer to read; the same for the same value.
    pub fn read(&mut self, v: ValueId) -> Val {
        self.pointer(v, false)
    }
    /// The pointer of a buffer to write; the same for the same value.
    pub fn write(&mut self, v: ValueId) -> Val {
        self.pointer(v, true)
    }
    fn pointer(&mut self, v: ValueId, write: bool) -> Val {
        if let Some(&p) = self.pointers.get(&(v, write)) {
            return p;
        }
        let name = format!("a{}", self.args.len());
        let p = if write { self.kernel.arg_mut(&name) } else { self.kernel.arg(&name) };
        self.args.push(if write { Operand::Write(v) } else { Operand::Read(v) });
        self.pointers.insert((v, write), p);
        p
    }
    /// The pointer of a constant made at compile time.
    pub fn packed(&mut self, layout: impl Into<String>, data: Tensor) -> Val {
        let name = format!("a{}", self.args.len());
        self.args.push(Operand::Packed { layout: layout.into(), data });
        self.kernel.arg(&name)
    }
    /// An extent as `i64`: a constant where it is known, else one of the kernel's dims. Call it outside loops for best code.
    pub fn extent(&mut self, d: &Dim) -> Val {
        if let Some(c) = d.as_const() {
            return self.kernel.i64(c);
        }
        if let Some(&v) = self.dim_values.get(d) {
            return v;
        }
        let v = self.kernel.dim(&format!("d{}", self.dims.len()));
        self.dims.push(d.clone());
        self.dim_values.insert(d.clone(), v);
        v
    }
    /// [`KernelBuilder::for_`] whose body may declare operands and extents.
    #[track_caller]
    pub fn for_(
        &mut self,
        lo: Val,
        hi: Val,
        step: Val,
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let (i, carried) = self.kernel.open_for(init);
        let yields = body(self, i, &carried);
        self.kernel.close_for(lo, hi, step, init, yields)
    }
    /// [`Self::for_`] that carries nothing.
    #[track_caller]
    pub fn loop_(&mut self, lo: Val, hi: Val, step: i64, body: impl FnOnce(&mut Self, Val)) {
        let step = self.kernel.i64(step);
        self.for_(lo, hi, step, &[], |b, i, _| {
            body(b, i);
            vec![]
        });
    }
    /// [`KernelBuilder::if_`] whose blocks may declare operands and extents.
    #[track_caller]
    pub fn if_(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut Self) -> Vec<Val>,
        or_else: impl FnOnce(&mut Self) -> Vec<Val>,
    ) -> Vec<Val> {
        self.kernel.open_block();
        let yields = then(self);
        let first = self.kernel.close_block(yields);
        self.kernel.open_block();
        let yields = or_else(self);
        let second = self.kernel.close_block(yields);
        self.kernel.choose(cond, first, second)
    }
    /// [`Self::if_`] without an alternative or results.
    #[track_caller]
    pub fn when(&mut self, cond: Val, then: impl FnOnce(&mut Self)) {
        self.if_(
            cond,
            |b| {
                then(b);
                vec![]
            },
            |_| vec![],
        );
    }
    /// Ends the kernel.
    pub fn launch(self, grid: impl Into<Dim>, scratch: impl Into<Dim>, grain: impl Into<Dim>) -> Launch {
        Launch {
            kernel: self.kernel.finish(),
            args: self.args,
            dims: self.dims,
            grid: grid.into(),
            scratch: scratch.into(),
            grain: grain.into(),
        }
    }
}
