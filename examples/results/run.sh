#!/usr/bin/env bash
# Measures every method of table.toml on real models and data, and writes docs/results.md. What is measured already is not measured again.
# examples/results/run.sh KIT (a folder as data.py describes it)
set -euo pipefail
kit=$(realpath "${1:?a folder with models/ and data/}")
cd "$(dirname "$0")/../.."
.ci/setup
[ -e target/results/wiki-llama/test.npz ] || python3 examples/results/data.py "$kit" target/results
exec cargo run --release --example results -- target/results
