#!/usr/bin/env bash
# Measures embeddings beside ONNX Runtime on the CPU: texts a second, and how close vectors are.
#
# Usage: scripts/bench-embedding.sh [--rounds N] [--threads N] [--texts N] [--work DIR]
#                                   [--json FILE] [--python PATH] [--embed FILE] [--help]
#
#   --rounds N      alternating rounds, of which medians are shown (default 5)
#   --threads N     threads of either engine (default: one per core)
#   --texts N       texts of 16 to 256 model tokens (default 512)
#   --work DIR      where packages and the model are kept (default: target/bench)
#   --json FILE     write every single figure there
#   --python PATH   an interpreter that has numpy, onnx, onnxruntime, safetensors and tokenizers
#   --embed FILE    the example program of this repository, already built
#   --help          this text
#
# The same weights go through both. ONNX Runtime runs them as 32-bit floats, and as 8-bit integers
# as its own quantize_dynamic makes them; batches of 32 texts are sorted by length, as
# sentence-transformers does. Texts are tokenized beforehand there, and in the measured time here.
# Measure on a machine that is otherwise idle.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

built=no
for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
    --embed | --embed=*) built=yes ;;
  esac
done

require_build_tools
if [ $built = no ]; then
  # With the packages that scripts/run.sh builds: another choice would build burn again.
  cargo build --release --locked --quiet -p aither-node -p aither-cli -p aither-inference \
    --example embed
  set -- --embed "$TARGET/release/examples/embed" "$@"
fi
exec python3 scripts/bench/embedding.py "$@"
