//! Export and import are inverse: each construct that has no ONNX operator of its own, or wraps its operands in one, comes back as the op that it was.

use tersor_frontend::ExportForm::{self, NBits, Plain};
use tersor_frontend::{ExportOptions, export, import_bytes};
use tersor_ir::text::{diff::diff, parse, print};

/// A module of constants, a signature and lines is the same after export in a form and import.
#[track_caller]
fn same(form: ExportForm, constants: &str, signature: &str, lines: &str) {
    let text = format!(
        "module @m {{
  symbol N 1..64 hint 4
  symbol T 1..64 hint 3
  {constants}
  func @main{signature} {{
    {lines}
  }}
}}"
    );
    let m = parse(&text, &Default::default()).unwrap_or_else(|e| panic!("{}\n{text}", e[0]));
    let written = export(&m, &ExportOptions { form, external: None }).unwrap_or_else(|e| panic!("{}", e[0]));
    let read = import_bytes(written.model, "m", &Default::default()).unwrap_or_else(|e| panic!("{}", e[0])).module;
    let d = diff(&m, &read);
    assert!(d.is_empty(), "{form:?}:\n{d}\n{}", print(&read));
}

#[test]
fn functions_that_are_spelt_out() {
    let floats = "(%x: f32[N,8]) -> (%y: f32[N,8])";
    same(Plain, "", floats, "%y = rsqrt %x : f32[N,8]\n return %y");
    same(Plain, "", floats, "%y = silu %x : f32[N,8]\n return %y");
    same(Plain, "", floats, "%y = layer_norm %x {axis=1, eps=0.5} : f32[N,8]\n return %y");
    same(Plain, "", floats, "%y = rms_norm %x {axis=1, eps=0.5} : f32[N,8]\n return %y");
    let tables = "const @c : f32[4,8] = rng normal(0, 1) seed 1\n const @s : f32[4,8] = rng normal(0, 1) seed 2";
    let rope = "%y = rope %x, @c, @s : f32[N,4,8]\n return %y";
    same(Plain, tables, "(%x: f32[N,4,8]) -> (%y: f32[N,4,8])", rope);
}

/// Rows of codes are written as they are computed.
#[test]
fn rows_of_codes() {
    for (group, scales) in [(0, 1), (16, 4)] {
        let lines = format!(
            "%c, %s = quant.dynamic %x {{group={group}}} : i8[N,64], f32[N,{scales}]
    %d = cast %c {{to=f32}} : f32[N,64]
    %y = exp %s : f32[N,{scales}]
    return %d, %y"
        );
        same(Plain, "", &format!("(%x: f32[N,64]) -> (%d: f32[N,64], %y: f32[N,{scales}])"), &lines);
    }
    // Beside another reshape.
    let lines = "%r = reshape %x {shape=[N,64]} : f32[N,64]
    %c, %s = quant.dynamic %r {group=16} : i8[N,64], f32[N,4]
    %y = decode.affine %c, %s {axis=1, group=16} : f32[N,64]
    return %y";
    same(ExportForm::Qdq, "", "(%x: f32[N,8,8]) -> (%y: f32[N,64])", lines);
}

/// An extent that the data decide keeps its name.
#[test]
fn extents_that_the_run_decides() {
    let lines = "%p = prefix %x, %n {extent=some.n} : f32[some.n,8]
    %y = exp %p : f32[some.n,8]
    return %y";
    same(Plain, "symbol some.n 0..64 hint 4", "(%x: f32[N,8], %n: i64[]) -> (%y: f32[some.n,8])", lines);
}

#[test]
fn places_along_an_open_extent() {
    let lines = "%i = iota {len=N} : i64[N]\n %y = add %x, %i : i64[N]\n return %y";
    same(Plain, "", "(%x: i64[N]) -> (%y: i64[N])", lines);
}

#[test]
fn movements() {
    let parts = "%k = concat %a, %b {axis=1} : f32[N,12]
    %u = slice %k {axis=1, start=2, len=4} : f32[N,4]
    %r = reshape %u {shape=[N,2,2]} : f32[N,2,2]
    %t = transpose %r {perm=[0,2,1]} : f32[N,2,2]
    %y = reshape %t {shape=[N,4]} : f32[N,4]
    return %y";
    same(Plain, "", "(%a: f32[N,8], %b: f32[N,4]) -> (%y: f32[N,4])", parts);
}

#[test]
fn layers_with_a_state() {
    let weights = "const @w : f32[8,3] = rng normal(0, 0.5) seed 1
  const @b : f32[8] = rng normal(0, 0.5) seed 2
  const @r : f32[8,2] = rng normal(0, 0.5) seed 3
  const @gw : f32[6,3] = rng normal(0, 0.5) seed 4
  const @gb : f32[6] = rng normal(0, 0.5) seed 5
  const @gr : f32[6,2] = rng normal(0, 0.5) seed 6
  const @p : f32[2] = rng normal(0, 0.5) seed 7";
    let lstm = "%a = matmul %x, @w {trans_b} : f32[T,N,8]
    %g = add %a, @b : f32[T,N,8]
    %y, %last = lstm %g, @r, %s : f32[T,N,2], f32[2,N,2]
    return %y, %last";
    same(Plain, weights, "(%x: f32[T,N,3], %s: f32[2,N,2]) -> (%y: f32[T,N,2], %last: f32[2,N,2])", lstm);
    let gru = "%a = matmul %x, @gw {trans_b} : f32[T,N,6]
    %c = add %a, @gb : f32[T,N,6]
    %y, %last = gru %c, @gr, %s, @p {reverse, reset_after} : f32[T,N,2], f32[1,N,2]
    return %y, %last";
    same(Plain, weights, "(%x: f32[T,N,3], %s: f32[1,N,2]) -> (%y: f32[T,N,2], %last: f32[1,N,2])", gru);
}

/// No row of these masks hides everything, so that nothing has to look for one.
#[test]
fn attention_with_masks_that_show_something() {
    let attend = "%y = attention %q, %q, %q, %m {scale=0.5} : f32[N,2,T,4]\n return %y";
    let table = "const @mask : f32[64,64] = rng uniform(-10000, 0) seed 1";
    let cut = "%r = slice @mask {axis=0, len=T} : f32[T,64]\n %m = slice %r {axis=1, len=T} : f32[T,T]\n";
    same(Plain, table, "(%q: f32[N,2,T,4]) -> (%y: f32[N,2,T,4])", &format!("{cut}{attend}"));
    let numbers = "const @one : f32[] = [1]\n const @low : f32[] = [-10000]";
    let padded = "%c = cast %keep {to=f32} : f32[N,T]
    %d = sub @one, %c : f32[N,T]
    %e = reshape %d {shape=[N,1,1,T]} : f32[N,1,1,T]
    %m = mul %e, @low : f32[N,1,1,T]\n";
    let ty = "(%q: f32[N,2,T,4], %keep: i64[N,T]) -> (%y: f32[N,2,T,4])";
    same(Plain, numbers, ty, &format!("{padded}{attend}"));
}

/// Weights in blocks, as columns and as rows, with zero points, cut short in the last block, and beside rows of codes.
#[test]
fn products_with_weights_in_blocks() {
    let ty = "(%x: f32[N,64]) -> (%y: f32[N,5])";
    let product =
        |decode: &str, matmul: &str| format!("%w = decode.affine {decode}\n %y = matmul %x, %w {matmul}\n return %y");
    let constants = |list: &[&str]| {
        let one = |(i, c): (usize, &&str)| format!("const {c} seed {i}\n");
        list.iter().enumerate().map(one).collect::<String>()
    };
    let codes = "@q : i4[64,5] = rng uniform(-8, 7)";
    let scales = "@s : f32[4,5] = rng uniform(0.01, 0.1)";
    let columns = product("@q, @s {group=16} : f32[64,5]", ": f32[N,5]");
    same(NBits, &constants(&[codes, scales]), ty, &columns);
    let rows = constants(&["@q : i8[5,64] = rng uniform(-128, 127)", "@s : f32[5,2] = rng uniform(0.01, 0.1)"]);
    same(NBits, &rows, ty, &product("@q, @s {axis=1, group=32} : f32[5,64]", "{trans_b} : f32[N,5]"));
    let zeros = ["@q : u4[64,5] = rng uniform(0, 15)", scales, "@z : u4[4,5] = rng uniform(0, 15)"];
    same(NBits, &constants(&zeros), ty, &product("@q, @s, @z {group=16} : f32[64,5]", ": f32[N,5]"));
    let short = constants(&["@q : i4[40,5] = rng uniform(-8, 7)", "@s : f32[3,5] = rng uniform(0.01, 0.1)"]);
    let short_ty = "(%x: f32[N,40]) -> (%y: f32[N,5])";
    same(NBits, &short, short_ty, &product("@q, @s {group=16} : f32[40,5]", ": f32[N,5]"));
    let coded = "%w = decode.affine @q, @s {group=16} : f32[64,5]
    %v = decode.affine @u, @s {group=16} : f32[64,5]
    %c, %cs = quant.dynamic %x {group=16} : i8[N,64], f32[N,4]
    %r = decode.affine %c, %cs {axis=1, group=16} : f32[N,64]
    %a = matmul %r, %w : f32[N,5]
    %b = matmul %r, %v : f32[N,5]
    %y = add %a, %b : f32[N,5]
    return %y";
    same(NBits, &constants(&[codes, scales, "@u : i4[64,5] = rng uniform(-8, 7)"]), ty, coded);
}
