#!/usr/bin/env bash
# Measures inference beside llama.cpp: speed, memory and perplexity of every weight format.
#
# Usage: scripts/bench-inference.sh [--models smollm2,padded,gemma3] [--formats Q4_0,Q8_0,...]
#                                   [--rounds N] [--threads N] [--quick] [--perplexity]
#                                   [--json FILE] [--markdown] [--help]
#
#   --models M,...    SmolLM2 135M; the same padded with zeros to a width that K-quants divide;
#                     Gemma 3 270M (default: all three)
#   --formats F,...   published, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16
#                     (default: all that a model has)
#   --rounds N        rounds of each workload, of which medians are shown (default 5)
#   --threads N       threads of either engine (default: one per core)
#   --quick           two rounds of the first format of each model
#   --perplexity      compare perplexities in place of speed; --windows N says of how much text
#   --json FILE       write every single figure there, after each format
#   --markdown        print one Markdown table, for a document
#   --work DIR        where llama.cpp and the models are made and kept (default: target/bench)
#   --python PATH     an interpreter that has llama-cpp-python and gguf; nothing is built then
#   --instructions I  what both engines may use at most: native, avx512 (native without Intel's AMX,
#                     which llama.cpp uses where it can) or avx2 (default: native)
#   --llama-flags F   more CMake arguments for llama.cpp
#   --smollm2 FILE, --gemma3 FILE   published model files of your own, instead of fetching them
#   --help            this text
#
# The first run builds both engines (some 20 minutes on two cores), fetches 300 MB of models and
# makes 4 GB of model files from them. Measure on a machine that is otherwise idle: the last line
# says what share of the processor's time the hypervisor gave to others.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
  esac
done

require_build_tools
have c++ || have g++ || have clang++ || install_packages "a C++ compiler" g++
# With the packages that scripts/run.sh builds: another choice would build burn again.
cargo build --release --locked --quiet -p aither-node -p aither-cli -p aither-inference \
  --example bench
exec python3 scripts/bench/compare.py --bench "$TARGET/release/examples/bench" "$@"
