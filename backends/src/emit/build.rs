//! The builder of kernels: operands, constants, memory of a kernel's own, control flow.

use super::intrinsic::Intrinsic;
use super::op::{Arg, Block, Constant, Flavor, Inst, Kernel, Memory, MemoryKind, Op};
use super::types::{Scalar, Ty, Val};
use foldhash::HashMap;
use std::collections::BTreeSet;

/// Builds one kernel. Operand types are checked as instructions are added; a mismatch is a bug of the caller and panics.
pub struct KernelBuilder {
    kernel: Kernel,
    /// Open blocks, innermost last.
    blocks: Vec<Block>,
    constants: HashMap<(Ty, Vec<u64>), Val>,
    /// Index of each constant value in `kernel.constants`.
    constant_of: HashMap<u32, usize>,
    /// Whether vectors of constants are read from memory at each use.
    sparing: bool,
    /// Where such vectors lie.
    stored: HashMap<(Ty, Vec<u64>), Val>,
}

impl KernelBuilder {
    /// A CPU kernel with the ABI of `ARCHITECTURE.md`.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_flavor(name.into(), Flavor::Cpu)
    }

    /// A GPU entry point.
    pub fn gpu(name: impl Into<String>) -> Self {
        Self::with_flavor(name.into(), Flavor::Gpu)
    }

    fn with_flavor(name: String, flavor: Flavor) -> Self {
        let value = |id, ty| Val { id, ty };
        let kernel = Kernel {
            name,
            flavor,
            args: Vec::new(),
            dims: Vec::new(),
            scratch: value(0, Ty::Ptr),
            begin: value(1, Ty::I64),
            end: value(2, Ty::I64),
            constants: Vec::new(),
            memory: Vec::new(),
            body: Block::default(),
            features: BTreeSet::new(),
            values: 3,
        };
        let (constants, constant_of) = Default::default();
        Self {
            kernel,
            blocks: vec![Block::default()],
            constants,
            constant_of,
            sparing: false,
            stored: HashMap::default(),
        }
    }

    /// The kernel, its body complete.
    pub fn finish(mut self) -> Kernel {
        assert_eq!(self.blocks.len(), 1, "{}: finished inside a block", self.kernel.name);
        self.kernel.body = self.blocks.pop().expect("the outermost block");
        self.kernel
    }

    pub fn name(&self) -> &str {
        &self.kernel.name
    }

    pub fn flavor(&self) -> Flavor {
        self.kernel.flavor
    }

    fn fresh(&mut self, ty: Ty) -> Val {
        let id = self.kernel.values;
        self.kernel.values += 1;
        Val { id, ty }
    }

    /// Declares the next operand, read only.
    pub fn arg(&mut self, name: &str) -> Val {
        self.add_arg(name, false)
    }

    /// Declares the next operand, written (and perhaps read).
    pub fn arg_mut(&mut self, name: &str) -> Val {
        self.add_arg(name, true)
    }

    fn add_arg(&mut self, name: &str, writable: bool) -> Val {
        let val = self.fresh(Ty::Ptr);
        self.kernel.args.push(Arg { name: name.into(), writable, aliased: false, val });
        val
    }

    /// Says that two operands may be the same memory (an in-place step). Neither is then assumed free of aliases.
    pub fn may_alias(&mut self, a: Val, b: Val) {
        for arg in &mut self.kernel.args {
            arg.aliased |= arg.val == a || arg.val == b;
        }
    }

    /// Declares the next extent that the kernel was not specialised for.
    pub fn dim(&mut self, name: &str) -> Val {
        let val = self.fresh(Ty::I64);
        self.kernel.dims.push((name.into(), val));
        val
    }

    /// The part of the grid to do: `begin..end`.
    pub fn range(&self) -> (Val, Val) {
        (self.kernel.begin, self.kernel.end)
    }

    /// The calling thread's scratch memory.
    pub fn scratch(&self) -> Val {
        self.kernel.scratch
    }

    /// Declares that the kernel cannot do without a CPU feature, by LLVM's name. Intrinsics declare theirs themselves.
    pub fn require(&mut self, feature: &'static str) {
        self.kernel.features.insert(feature);
    }

    /// Whether [`Self::require`] or an intrinsic has asked for `feature`.
    pub fn requires(&self, feature: &str) -> bool {
        self.kernel.features.contains(feature)
    }

    // Memory of the kernel's own.

    /// A read-only table of bytes beside the code; the same one for the same bytes.
    pub fn table(&mut self, bytes: Vec<u8>, align: u32) -> Val {
        let same = |m: &&Memory| m.align >= align && matches!(&m.kind, MemoryKind::Table(t) if *t == bytes);
        if let Some(m) = self.kernel.memory.iter().find(same) {
            return m.val;
        }
        self.memory(Ty::Ptr, align, MemoryKind::Table(bytes))
    }

    /// Stack memory, one piece per call of the kernel wherever it is asked for. Its contents are undefined at first.
    pub fn alloca(&mut self, bytes: u32, align: u32) -> Val {
        self.memory(Ty::Ptr, align, MemoryKind::Stack(bytes))
    }

    /// Memory shared by the threads of a GPU block.
    pub fn shared(&mut self, bytes: u32, align: u32) -> Val {
        self.memory(Ty::Shared, align, MemoryKind::Shared(bytes))
    }

    fn memory(&mut self, ty: Ty, align: u32, kind: MemoryKind) -> Val {
        assert!(align.is_power_of_two(), "{}: alignment {align}", self.kernel.name);
        let val = self.fresh(ty);
        self.kernel.memory.push(Memory { val, align, kind });
        val
    }

    // Constants.

    pub fn i64(&mut self, value: i64) -> Val {
        self.int(Ty::I64, value)
    }

    pub fn i32(&mut self, value: i32) -> Val {
        self.int(Ty::I32, value.into())
    }

    pub fn f32(&mut self, value: f32) -> Val {
        self.constant(Ty::F32, vec![value.to_bits().into()])
    }

    pub fn bool(&mut self, value: bool) -> Val {
        self.int(Ty::I1, value.into())
    }

    /// An integer constant of a scalar type, or of a vector type in every lane.
    #[track_caller]
    pub fn int(&mut self, ty: Ty, value: i64) -> Val {
        assert!(ty.is_int(), "integer constant of type {ty}");
        self.constant(ty, vec![value as u64 & ty.elem().mask()])
    }

    /// A float constant of a scalar type, or of a vector type in every lane.
    #[track_caller]
    pub fn float(&mut self, ty: Ty, value: f64) -> Val {
        let bits = match ty.elem() {
            Scalar::F16 => half::f16::from_f64(value).to_bits().into(),
            Scalar::BF16 => half::bf16::from_f64(value).to_bits().into(),
            Scalar::F32 => (value as f32).to_bits().into(),
            Scalar::F64 => value.to_bits(),
            other => panic!("float constant of type {}", other.name()),
        };
        self.constant(ty, vec![bits])
    }

    /// Zero of any scalar or vector type.
    pub fn zero(&mut self, ty: Ty) -> Val {
        self.constant(ty, vec![0])
    }

    pub fn vec_f32(&mut self, lanes: &[f32]) -> Val {
        self.constant(Scalar::F32.x(lanes.len() as u32), lanes.iter().map(|x| x.to_bits().into()).collect())
    }

    pub fn vec_i32(&mut self, lanes: &[i32]) -> Val {
        self.constant(Scalar::I32.x(lanes.len() as u32), lanes.iter().map(|&x| (x as u32).into()).collect())
    }

    /// Lanes of any integer vector type.
    #[track_caller]
    pub fn vec_int(&mut self, elem: Scalar, lanes: &[i64]) -> Val {
        assert!(!elem.is_float(), "integer lanes of type {}", elem.name());
        self.constant(elem.x(lanes.len() as u32), lanes.iter().map(|&x| x as u64 & elem.mask()).collect())
    }

    /// `0, 1, 2, …` in the lanes of an integer vector.
    pub fn iota(&mut self, ty: Ty) -> Val {
        self.vec_int(ty.elem(), &(0..ty.lanes().into()).collect::<Vec<_>>())
    }

    pub(super) fn constant(&mut self, ty: Ty, bits: Vec<u64>) -> Val {
        if self.sparing && ty.lanes() > 1 && ty.elem() != Scalar::I1 {
            let size = ty.elem().bytes();
            let at = match self.stored.get(&(ty, bits.clone())) {
                Some(&at) => at,
                None => {
                    let lanes = bits.iter().cycle().take(ty.lanes() as usize);
                    let bytes = lanes.flat_map(|b| b.to_le_bytes()[..size as usize].to_vec()).collect();
                    let at = self.table(bytes, 64);
                    self.stored.insert((ty, bits), at);
                    at
                }
            };
            return self.push1(Op::Load { align: ty.bytes().min(64), pinned: true }, vec![at], ty);
        }
        if let Some(&val) = self.constants.get(&(ty, bits.clone())) {
            return val;
        }
        let val = self.fresh(ty);
        self.constant_of.insert(val.id, self.kernel.constants.len());
        self.constants.insert((ty, bits.clone()), val);
        self.kernel.constants.push(Constant { val, bits });
        val
    }

    /// The value of a constant `i64`.
    pub(super) fn known(&self, val: Val) -> Option<i64> {
        if val.ty != Ty::I64 {
            return None;
        }
        self.constant_of.get(&val.id).map(|&i| self.kernel.constants[i].bits[0] as i64)
    }

    /// Whether vectors of constants, from here on, are read from memory at each use; returns what held before. For code between loops that need
    /// every register: LLVM would keep the constants in registers across those loops, and spill there.
    pub fn spare_registers(&mut self, on: bool) -> bool {
        std::mem::replace(&mut self.sparing, on)
    }

    /// The bits of a scalar constant.
    pub(super) fn constant_bits(&self, val: Val) -> Option<u64> {
        self.constant_of.get(&val.id).filter(|_| val.ty.lanes() == 1).map(|&i| self.kernel.constants[i].bits[0])
    }

    // Instructions.

    /// Appends an instruction and returns its results.
    pub(super) fn push(&mut self, op: Op, args: Vec<Val>, results: &[Ty], regions: Vec<Block>) -> Vec<Val> {
        let results: Vec<Val> = results.iter().map(|&ty| self.fresh(ty)).collect();
        let block = self.blocks.last_mut().expect("an open block");
        block.insts.push(Inst { op, args, results: results.clone(), regions });
        results
    }

    pub(super) fn push1(&mut self, op: Op, args: Vec<Val>, ty: Ty) -> Val {
        self.push(op, args, &[ty], Vec::new())[0]
    }

    pub(super) fn push0(&mut self, op: Op, args: Vec<Val>) {
        self.push(op, args, &[], Vec::new());
    }

    /// A machine instruction; see [`Intrinsic`] for operands and results.
    #[track_caller]
    pub fn intrinsics(&mut self, intrinsic: Intrinsic, args: &[Val]) -> Vec<Val> {
        let (expected, results) = intrinsic.signature();
        let given: Vec<Ty> = args.iter().map(|v| v.ty).collect();
        assert_eq!(given, expected, "operands of {intrinsic:?}");
        self.kernel.features.extend(intrinsic.features());
        self.push(Op::Intrinsic(intrinsic), args.to_vec(), &results, Vec::new())
    }

    /// A machine instruction with one result.
    #[track_caller]
    pub fn intrinsic(&mut self, intrinsic: Intrinsic, args: &[Val]) -> Val {
        self.intrinsics(intrinsic, args)[0]
    }

    // Control flow.

    /// Runs `body` for `i = lo, lo + step, …` below `hi` (signed, `step > 0`), carrying values from round to round. Returns
    /// what the last round handed on, or `init` when there was none.
    #[track_caller]
    pub fn for_(
        &mut self,
        lo: Val,
        hi: Val,
        step: Val,
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let (i, carried) = self.open_for(init);
        let yields = body(self, i, &carried);
        self.close_for(lo, hi, step, init, yields)
    }

    /// Opens the body of a loop: the induction variable and the carried values.
    pub(crate) fn open_for(&mut self, init: &[Val]) -> (Val, Vec<Val>) {
        let i = self.fresh(Ty::I64);
        let carried: Vec<Val> = init.iter().map(|v| self.fresh(v.ty)).collect();
        let params = std::iter::once(i).chain(carried.iter().copied()).collect();
        self.blocks.push(Block { params, ..Block::default() });
        (i, carried)
    }

    /// Ends the body that [`Self::open_for`] opened.
    #[track_caller]
    pub(crate) fn close_for(&mut self, lo: Val, hi: Val, step: Val, init: &[Val], yields: Vec<Val>) -> Vec<Val> {
        assert!([lo, hi, step].iter().all(|v| v.ty == Ty::I64), "loop bounds are i64");
        let types: Vec<Ty> = init.iter().map(|v| v.ty).collect();
        let region = self.close_block(yields);
        assert_eq!(region.yields.iter().map(|v| v.ty).collect::<Vec<_>>(), types, "types of the values handed on");
        let mut args = vec![lo, hi, step];
        args.extend(init);
        self.push(Op::For, args, &types, vec![region])
    }

    /// Opens a block without parameters.
    pub(crate) fn open_block(&mut self) {
        self.blocks.push(Block::default());
    }

    /// Ends the innermost open block.
    pub(crate) fn close_block(&mut self, yields: Vec<Val>) -> Block {
        let block = self.blocks.pop().expect("an open block");
        Block { yields, ..block }
    }

    /// The choice between two finished blocks.
    #[track_caller]
    pub(crate) fn choose(&mut self, cond: Val, then: Block, or_else: Block) -> Vec<Val> {
        assert_eq!(cond.ty, Ty::I1, "condition");
        let types: Vec<Ty> = then.yields.iter().map(|v| v.ty).collect();
        assert_eq!(or_else.yields.iter().map(|v| v.ty).collect::<Vec<_>>(), types, "types of the values handed out");
        self.push(Op::If, vec![cond], &types, vec![then, or_else])
    }

    /// [`Self::for_`] that carries nothing.
    #[track_caller]
    pub fn loop_(&mut self, lo: Val, hi: Val, step: i64, body: impl FnOnce(&mut Self, Val)) {
        let step = self.i64(step);
        self.for_(lo, hi, step, &[], |k, i, _| {
            body(k, i);
            Vec::new()
        });
    }

    /// Runs one of two blocks; both hand out values of the same types.
    #[track_caller]
    pub fn if_(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut Self) -> Vec<Val>,
        or_else: impl FnOnce(&mut Self) -> Vec<Val>,
    ) -> Vec<Val> {
        self.open_block();
        let yields = then(self);
        let first = self.close_block(yields);
        self.open_block();
        let yields = or_else(self);
        let second = self.close_block(yields);
        self.choose(cond, first, second)
    }

    /// [`Self::if_`] without an alternative or results.
    #[track_caller]
    pub fn when(&mut self, cond: Val, then: impl FnOnce(&mut Self)) {
        self.if_(
            cond,
            |k| {
                then(k);
                Vec::new()
            },
            |_| Vec::new(),
        );
    }
}
