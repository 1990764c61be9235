//! Random models: groups of channels taken out leave no trace.

use super::order::{Order, alike};
use super::region::Region;
use super::remove::{Removal, remove};
use super::*;
use proptest::prelude::*;
use tersor_ir::dim::SymbolInfo;
use tersor_ir::module::Builder;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::norm::{LayerNorm, RmsNorm};
use tersor_ir::ops::pool::{Pool, PoolKind};
use tersor_ir::ops::reduce::{Reduce, ReduceKind};
use tersor_ir::ops::unary::{Unary, UnaryKind};
use tersor_ir::ops::{Attention, Concat, MatMul, Real, Reshape, Rope, Slice, Transpose};
use tersor_ir::testing::{Gen, rel_l2};
use tersor_ir::{DType, Dim, Tensor, Type};

/// Programs as exporters write them, of random blocks.
struct Maker<'m> {
    b: Builder<'m>,
    g: Gen,
}

impl Maker<'_> {
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let ty = self.g.ty(DType::F32, shape);
        let t = self.g.tensor(&ty);
        self.b.constant("w", &t)
    }
    fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
        self.b.op(op, operands).unwrap()
    }
    fn binary(&mut self, kind: BinaryKind, x: ValueId, y: ValueId) -> ValueId {
        self.op(Binary { kind }, &[x, y])
    }
    fn act(&mut self, x: ValueId) -> ValueId {
        let kind = self.g.one_of(&[UnaryKind::Relu, UnaryKind::Tanh, UnaryKind::Sigmoid]);
        self.op(Unary { kind }, &[x])
    }
    fn extent(&self, v: ValueId, axis: usize) -> usize {
        self.b.ty(v).shape[axis].as_const().unwrap() as usize
    }
    fn matmul(&mut self, x: ValueId, outs: usize) -> ValueId {
        let inner = self.extent(x, self.b.ty(x).rank() - 1);
        let trans_b = self.g.flip();
        let w = self.weight(&if trans_b { [outs, inner] } else { [inner, outs] });
        self.op(MatMul { trans_a: false, trans_b, wide: false }, &[x, w])
    }
    fn biased(&mut self, x: ValueId, axis: usize) -> ValueId {
        let mut shape = vec![1; self.b.ty(x).rank() - axis];
        shape[0] = self.extent(x, axis);
        let bias = self.weight(&shape);
        self.binary(BinaryKind::Add, x, bias)
    }
    /// A convolution of images, `[N, C, H, W]`, that keeps their extents, with a bias.
    fn conv(&mut self, x: ValueId, outs: usize, groups: usize) -> ValueId {
        let k = self.g.one_of(&[1, 3]);
        let w = self.weight(&[outs, self.extent(x, 1) / groups, k, k]);
        let op = Conv {
            strides: vec![1, 1],
            pads: vec![(k / 2) as i64; 4],
            dilations: vec![1, 1],
            groups: groups as i64,
            channels_last: false,
            wide: false,
        };
        let y = self.op(op, &[x, w]);
        self.biased(y, 1)
    }
    fn image_block(&mut self, x: ValueId) -> ValueId {
        let c = self.extent(x, 1);
        match self.g.int(0, 7) {
            0 => {
                let y = self.conv(x, c, 1);
                let y = self.act(y);
                let y = self.conv(y, c, 1);
                self.binary(BinaryKind::Add, x, y)
            }
            1 => {
                let y = self.conv(x, c, c);
                self.act(y)
            }
            2 => {
                let y = self.conv(x, 6, 1);
                let y = self.act(y);
                let groups = self.g.one_of(&[2, 3]);
                self.conv(y, 12, groups)
            }
            3 => {
                let outs = self.g.int(2, 4) as usize;
                let y = self.conv(x, outs, 1);
                self.op(Concat { axis: 1 }, &[x, y])
            }
            4 => {
                let y = self.conv(x, 8, 1);
                let part = |start: i64| Slice { axis: 1, start: start.into(), len: 4.into(), step: 1 };
                let (a, b) = (self.op(part(0), &[y]), self.op(part(4), &[y]));
                let b = self.act(b);
                self.binary(BinaryKind::Mul, a, b)
            }
            5 => {
                let kind = self.g.one_of(&[PoolKind::Max, PoolKind::Avg]);
                let (two, one) = (vec![2, 2], vec![1, 1]);
                let op = Pool {
                    kind,
                    kernel: two,
                    strides: one.clone(),
                    pads: vec![0, 1, 1, 0],
                    dilations: one,
                    count_pad: false,
                    channels_last: false,
                };
                self.op(op, &[x])
            }
            6 => {
                // Squeeze and excitation.
                let y = self.op(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true }, &[x]);
                let y = self.conv(y, 4, 1);
                let y = self.act(y);
                let y = self.conv(y, c, 1);
                let y = self.act(y);
                self.binary(BinaryKind::Mul, x, y)
            }
            _ => {
                let outs = self.g.int(3, 6) as usize;
                let y = self.conv(x, outs, 1);
                self.act(y)
            }
        }
    }
    fn heads(&mut self, x: ValueId, n: usize) -> ValueId {
        let d = self.extent(x, 2) / n;
        let y = self.op(Reshape { shape: vec!["B".into(), 5.into(), n.into(), d.into()] }, &[x]);
        self.op(Transpose { perm: vec![0, 2, 1, 3] }, &[y])
    }
    fn attention(&mut self, x: ValueId) -> ValueId {
        let (per, kv, d) = (self.g.int(1, 2) as usize, self.g.int(2, 3) as usize, 4);
        let [q, k, v] = if self.g.flip() {
            let qkv = self.matmul(x, 3 * kv * d);
            let qkv = self.biased(qkv, 2);
            let shape: Vec<Dim> = vec!["B".into(), 5.into(), 3.into(), kv.into(), d.into()];
            let y = self.op(Reshape { shape }, &[qkv]);
            let y = self.op(Transpose { perm: vec![2, 0, 3, 1, 4] }, &[y]);
            [0, 1, 2].map(|i| {
                let y = self.op(Slice { axis: 0, start: i.into(), len: 1.into(), step: 1 }, &[y]);
                self.op(Reshape { shape: vec!["B".into(), kv.into(), 5.into(), d.into()] }, &[y])
            })
        } else {
            [per * kv, kv, kv].map(|n| {
                let y = self.matmul(x, n * d);
                self.heads(y, n)
            })
        };
        let [q, k] = match self.g.flip() {
            true => {
                let (cos, sin) = (self.weight(&[5, d]), self.weight(&[5, d]));
                let interleaved = self.g.flip();
                [q, k].map(|v| self.op(Rope { interleaved }, &[v, cos, sin]))
            }
            false => [q, k],
        };
        let causal = self.g.flip();
        let y = self.op(Attention { scale: Real(0.5), causal }, &[q, k, v]);
        let y = self.op(Transpose { perm: vec![0, 2, 1, 3] }, &[y]);
        let wide = self.extent(y, 2) * d;
        let y = self.op(Reshape { shape: vec!["B".into(), 5.into(), wide.into()] }, &[y]);
        let outs = self.extent(x, 2);
        self.matmul(y, outs)
    }
    fn token_block(&mut self, x: ValueId) -> ValueId {
        let c = self.extent(x, 2);
        let scale = self.weight(&[c]);
        let y = match self.g.flip() {
            true => self.op(RmsNorm { axis: 2, eps: Real(1e-3) }, &[x, scale]),
            false => self.op(LayerNorm { axis: 2, eps: Real(1e-3) }, &[x, scale]),
        };
        let y = match self.g.int(0, 2) {
            0 => self.attention(y),
            1 => {
                let (gate, up) = (self.matmul(y, 10), self.matmul(y, 10));
                let gate = self.act(gate);
                let y = self.binary(BinaryKind::Mul, gate, up);
                self.matmul(y, c)
            }
            _ => {
                let y = self.matmul(y, 9);
                let y = self.biased(y, 2);
                let y = self.act(y);
                self.matmul(y, c)
            }
        };
        self.binary(BinaryKind::Add, x, y)
    }
}

/// A random convolutional network or transformer.
pub(crate) fn model(seed: u64) -> Module {
    let mut m = Module::new("random");
    let mut f = Func::new("main");
    let body = f.body_id();
    let mut g = Gen::new(seed);
    m.symbol("B", SymbolInfo { min: 1, max: 8, hint: 2 });
    let images = g.flip();
    let shape: Vec<Dim> = match images {
        true => vec!["B".into(), 3.into(), 4.into(), 4.into()],
        false => vec!["B".into(), 5.into(), 6.into()],
    };
    let mut x = f.add_param(body, "x", Type::new(DType::F32, shape));
    f.inputs = vec!["x".into()];
    let mut k = Maker { b: Builder::new(&mut m.consts, &mut f), g };
    let blocks = k.g.int(1, 4);
    if images {
        x = k.conv(x, 6, 1);
        for _ in 0..blocks {
            x = k.image_block(x);
        }
        let c = k.extent(x, 1);
        if k.g.flip() {
            x = k.op(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: false }, &[x]);
        } else {
            let all = c * k.extent(x, 2) * k.extent(x, 3);
            x = k.op(Reshape { shape: vec!["B".into(), all.into()] }, &[x]);
        }
    } else {
        x = k.matmul(x, 7);
        for _ in 0..blocks {
            x = k.token_block(x);
        }
    }
    let y = k.matmul(x, 3);
    f.outputs = vec!["y".into()];
    f.body_mut().results = vec![y];
    m.funcs.push(f);
    m
}

/// The module with the channels' elements of every constant of the group 0.
fn zeroed(m: &Module, r: Removal) -> Module {
    let mut out = m.clone();
    let f = &mut out.funcs[r.group.func];
    let values: BTreeSet<ValueId> = r.group.slots.keys().map(|s| s.value).collect();
    for v in values {
        let Def::Const(c) = f.values[v].def else { continue };
        let old = m.consts[c].tensor().unwrap();
        let mut elements = old.to_f64();
        let mut at = 0;
        tersor_ir::ops::shape::for_each_index(old.shape(), |ix| {
            let lost = |(axis, &i): (usize, &usize)| {
                r.group.slots.get(&Slot { value: v, axis }).is_some_and(|of| r.gone.contains(&of[i]))
            };
            if ix.iter().enumerate().any(lost) {
                elements[at] = 0.0;
            }
            at += 1;
        });
        let t = Tensor::from_f64(old.dtype(), old.shape(), &elements);
        let name = out.consts[c].name.clone();
        out.consts[c] = tersor_ir::Constant::from_tensor(name, &t, Default::default());
    }
    out
}

fn run(m: &Module) -> Tensor {
    let f = &m.funcs[m.main().unwrap()];
    let shape: Vec<usize> =
        f.values[f.body().params[0]].ty.shape.iter().map(|d| d.as_const().unwrap_or(2) as usize).collect();
    let mut g = Gen::new(7);
    let x = g.tensor(&Type::new(DType::F32, shape));
    tersor_ir::interp::run(m, &[x]).unwrap().remove(0)
}

/// Free channels to take, some of each axis left.
fn some(g: &Group, gen_: &mut Gen) -> BTreeSet<usize> {
    let mut gone = BTreeSet::new();
    for c in g.free() {
        if gen_.flip() {
            gone.insert(c);
            if g.slots.keys().any(|&s| g.kept(s, &gone).is_some_and(|k| k.is_empty())) {
                gone.remove(&c);
            }
        }
    }
    gone
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn channels_of_zeros_go_without_a_trace(seed in 1u64..1 << 40) {
        let m = model(seed);
        prop_assert_eq!(tersor_ir::verify::verify(&m), vec![]);
        let main = m.main().unwrap();
        let mut gen_ = Gen::new(seed ^ 1);
        for group in groups(&m, main) {
            let gone = some(&group, &mut gen_);
            let r = Removal { group: &group, gone: &gone };
            let before = zeroed(&m, r);
            let mut after = before.clone();
            remove(&mut after, r).unwrap();
            prop_assert_eq!(tersor_ir::verify::verify(&after), vec![]);
            if gone.is_empty() {
                prop_assert_eq!(tersor_ir::text::print(&after), tersor_ir::text::print(&before));
            } else {
                prop_assert!(after.constant_bytes() < before.constant_bytes());
            }
            let (a, b) = (run(&after), run(&before));
            prop_assert!(rel_l2(&a, &b) < 1e-6, "{}: {:e}\n{}", group.name, rel_l2(&a, &b), tersor_ir::text::print(&m));
            // The region alone, rewritten between values of unchanged types, gives the same.
            if let Ok(region) = Region::around(&before.funcs[main], &group) {
                let swapped = replaced(&before, r, &region);
                prop_assert_eq!(tersor_ir::verify::verify(&swapped), vec![]);
                prop_assert!(run(&swapped) == a);
                prop_assert_eq!(swapped.constant_bytes(), after.constant_bytes());
            } else {
                prop_assert!(group.free().is_empty());
            }
        }
    }
    #[test]
    fn groups_can_go_one_after_another(seed in 1u64..1 << 40) {
        let mut m = model(seed);
        let mut gen_ = Gen::new(seed ^ 2);
        for i in 0..groups(&m, m.main().unwrap()).len() {
            // An axis of which one position is left begins no group.
            let Some(group) = groups(&m, m.main().unwrap()).into_iter().nth(i) else { break };
            let gone = some(&group, &mut gen_);
            remove(&mut m, Removal { group: &group, gone: &gone }).unwrap();
            prop_assert_eq!(tersor_ir::verify::verify(&m), vec![]);
        }
        run(&m);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn alike_channels_in_any_order_leave_no_trace(seed in 1u64..1 << 40) {
        let m = model(seed);
        let mut g = Gen::new(seed);
        for group in groups(&m, m.main().unwrap()) {
            let mut order = Order::natural(&group);
            for kind in alike(&group) {
                for &a in &kind {
                    order.swap(a, g.one_of(&kind));
                }
            }
            let mut after = m.clone();
            order.apply(&mut after).unwrap();
            prop_assert!(tersor_ir::verify::verify(&after).is_empty());
            let off = crate::filetest::difference(&m, &after).unwrap();
            prop_assert!(off < 1e-4, "{} {:?}", off, order);
        }
    }
}

/// The module with the group's region, over what stays, in place of itself.
fn replaced(m: &Module, r: Removal, region: &Region) -> Module {
    let mut out = m.clone();
    let mut names = crate::propose::ConstNames::of(m);
    let Module { consts, funcs, .. } = &mut out;
    let f = &mut funcs[r.group.func];
    let body = f.body_id();
    let nodes = std::mem::take(&mut f.body_mut().nodes);
    let Def::Node(end, _) = f.values[region.exit].def else { panic!("a node") };
    let at = nodes.iter().position(|&n| n == end).unwrap() + 1;
    f.body_mut().nodes = nodes[..at].to_vec();
    let mut b = crate::propose::Editor {
        consts,
        func: &mut *f,
        region: body,
        loc: Default::default(),
        name: "kept".into(),
        choice: None,
        narrowed: vec![],
        names: &mut names,
    };
    let exit = region.without(&mut b, r, &Default::default()).unwrap();
    for &n in &nodes[at..] {
        f.nodes[n].operands.iter_mut().filter(|v| **v == region.exit).for_each(|v| *v = exit);
        f.body_mut().nodes.push(n);
    }
    f.body_mut().results.iter_mut().filter(|v| **v == region.exit).for_each(|v| *v = exit);
    f.remove_dead();
    out
}

fn parsed(text: &str) -> Module {
    tersor_ir::text::parse(text, &Default::default()).unwrap()
}

/// Name, unit, channels, free ones, producers and consumers of each group.
fn summary(m: &Module) -> Vec<(String, Unit, usize, usize, usize, usize)> {
    let one = |g: Group| {
        let free = g.free().len();
        (g.name, g.unit, g.channels.len(), free, g.producers.len(), g.consumers.len())
    };
    groups(m, m.main().unwrap()).into_iter().map(one).collect()
}

#[test]
fn residual_branches_have_their_own_channels_and_share_the_stream() {
    let m = parsed(
        "module @m { symbol n 0..9 hint 1
         const @a : f32[8,3,3,3] = rng normal(0, 1) seed 1  const @b : f32[6,8,3,3] = rng normal(0, 1) seed 2
         const @c : f32[8,6,3,3] = rng normal(0, 1) seed 3  const @d : f32[8,1,3,3] = rng normal(0, 1) seed 4
         const @e : f32[128,5] = rng normal(0, 1) seed 5
         func @main(%x: f32[n,3,4,4]) -> (%y: f32[n,5]) {
         %s = conv %x, @a {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[n,8,4,4]
         %h = conv %s, @b {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[n,6,4,4]
         %r = relu %h : f32[n,6,4,4]
         %t = conv %r, @c {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[n,8,4,4]
         %u = add %s, %t : f32[n,8,4,4]
         %v = conv %u, @d {strides=[1,1], pads=[1,1,1,1], dilations=[1,1], groups=8} : f32[n,8,4,4]
         %f = reshape %v {shape=[n,128]} : f32[n,128]
         %y = matmul %f, @e : f32[n,5]
         return %y } }",
    );
    let expected = [
        ("s".to_string(), Unit::Channel, 8, 8, 3, 2),
        ("h".to_string(), Unit::Channel, 6, 6, 1, 1),
        ("y".to_string(), Unit::Feature, 5, 0, 1, 0),
    ];
    assert_eq!(summary(&m), expected);
    let stream = groups(&m, m.main().unwrap()).swap_remove(0);
    assert_eq!(stream.consumers.iter().map(|w| w.axis).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn heads_go_with_the_queries_that_read_them() {
    let m = parsed(
        "module @m { symbol n 0..9 hint 1
         const @q : f32[6,16] = rng normal(0, 1) seed 1  const @k : f32[6,8] = rng normal(0, 1) seed 2
         const @v : f32[6,8] = rng normal(0, 1) seed 3  const @o : f32[16,6] = rng normal(0, 1) seed 4
         func @main(%x: f32[n,5,6]) -> (%y: f32[n,5,6]) {
         %q0 = matmul %x, @q : f32[n,5,16]
         %q1 = reshape %q0 {shape=[n,5,4,4]} : f32[n,5,4,4]
         %q2 = transpose %q1 {perm=[0,2,1,3]} : f32[n,4,5,4]
         %k0 = matmul %x, @k : f32[n,5,8]
         %k1 = reshape %k0 {shape=[n,5,2,4]} : f32[n,5,2,4]
         %k2 = transpose %k1 {perm=[0,2,1,3]} : f32[n,2,5,4]
         %v0 = matmul %x, @v : f32[n,5,8]
         %v1 = reshape %v0 {shape=[n,5,2,4]} : f32[n,5,2,4]
         %v2 = transpose %v1 {perm=[0,2,1,3]} : f32[n,2,5,4]
         %a = attention %q2, %k2, %v2 {scale=0.5} : f32[n,4,5,4]
         %b = transpose %a {perm=[0,2,1,3]} : f32[n,5,4,4]
         %c = reshape %b {shape=[n,5,16]} : f32[n,5,16]
         %y = matmul %c, @o : f32[n,5,6]
         return %y } }",
    );
    let all = groups(&m, m.main().unwrap());
    assert_eq!((all[0].unit, all[0].channels.len(), all[0].free().len()), (Unit::Head, 2, 2));
    assert_eq!((all[0].producers.len(), all[0].consumers.len()), (3, 1));
    let o = all[0].consumers[0];
    let rows = &all[0].slots[&Slot { value: o.value, axis: o.axis }];
    assert_eq!(rows[..], [[0; 8], [1; 8]].concat()[..]);
    let mut one = m.clone();
    remove(&mut one, Removal { group: &all[0], gone: &BTreeSet::from([1]) }).unwrap();
    assert_eq!(one.constant_bytes() * 2, m.constant_bytes());
}

#[test]
fn what_bars_channels_is_said() {
    let m = parsed(
        "module @m { const @a : f32[4,6] = rng normal(0, 1) seed 1  const @b : f32[6,4] = rng normal(0, 1) seed 2
         func @main(%x: f32[3,4]) -> (%y: f32[3,4]) {
         %h = matmul %x, @a : f32[3,6]
         %s = softmax %h {axis=1} : f32[3,6]
         %y = matmul %s, @b : f32[3,4]
         return %y } }",
    );
    let all = groups(&m, m.main().unwrap());
    assert_eq!(all[0].reason(), Some("%h: softmax runs along this axis"));
    assert_eq!(all[1].reason(), Some("%y: it is an output"));
    let gone = BTreeSet::from([0]);
    let refused = remove(&mut m.clone(), Removal { group: &all[0], gone: &gone }).unwrap_err();
    assert_eq!(refused.code, "S0130");
}
