#!/usr/bin/env bash
# Fuzzes every reader of untrusted files for so many seconds, two at a time: tests/fuzz/run.sh [SECONDS] [CASES]
# CASES is a folder of ONNX models (tests/conformance/cases.py writes one). Needs `cargo install cargo-fuzz`; the sanitizers of stable Rust are unlocked below.
set -euo pipefail
seconds=${1:-600} cases=${2:-}
cd "$(dirname "$0")/../.."
export RUSTC_BOOTSTRAP=1
seeds=target/fuzz/seeds
rm -rf "$seeds"
mkdir -p "$seeds"/{onnx,tir,pipeline,plan,artifact}
number=0
while read -r file; do
    number=$((number + 1))
    cp "$file" "$seeds/tir/$number"
    grep -h '^//! pass:' "$file" | sed 's,^//! pass: *,,' >"$seeds/pipeline/$number" || rm "$seeds/pipeline/$number"
done < <(find tests/ops tests/passes tests/verify -name '*.tir')
for file in passes/presets/*.toml; do cp "$file" "$seeds/pipeline/"; done
for file in examples/results/plans/*.toml; do cp "$file" "$seeds/plan/"; done
if [ -n "$cases" ]; then
    while read -r file; do
        number=$((number + 1))
        cp "$file" "$seeds/onnx/$number"
    done < <(find "$cases" -name model.onnx -size -20k)
fi
# The manifest of an artifact is its end; the header says at byte 16 where it begins.
for file in tests/ops/{matmul,softmax,gather,pool,loop}/*.tir; do
    if cargo run -q --release --bin tersor -- compile "$file" -p lossless --target native -o target/fuzz/seed.tsr -q; then
        number=$((number + 1))
        tail -c "+$(($(od -An -t u8 -j 16 -N 8 target/fuzz/seed.tsr) + 1))" target/fuzz/seed.tsr >"$seeds/artifact/$number"
    fi
done
cargo fuzz build --fuzz-dir tests/fuzz --release --sanitizer none
run() {
    mkdir -p "target/fuzz/corpus/$1" "target/fuzz/findings/$1"
    cargo fuzz run --fuzz-dir tests/fuzz --release --sanitizer none "$1" "target/fuzz/corpus/$1" "$seeds/$1" -- \
        -max_total_time="$seconds" -max_len=20000 -timeout=30 -rss_limit_mb=2048 -artifact_prefix="target/fuzz/findings/$1/" \
        >"target/fuzz/$1.log" 2>&1 || { echo "$1: a finding, see target/fuzz/$1.log" >&2; return 1; }
    echo "$1: $(grep -c . "target/fuzz/$1.log") lines of log, no finding"
}
export -f run
export seconds seeds
printf '%s\n' onnx tir pipeline plan artifact | xargs -P 2 -I{} bash -c 'run {}'
