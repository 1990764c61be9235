#!/usr/bin/env bash
# The main job from a fresh clone: install what is missing, build, compile the example plain and with int8, run both, compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
.ci/setup
exec cargo run --release --example fashion
