#!/usr/bin/env bash
# Measures serving beside llama.cpp's servers: many clients at once over HTTP.
#
# Usage: scripts/bench-serving.sh [--rounds N] [--threads N] [--instructions SET] [--port N]
#                                 [--json FILE] [--work DIR] [--python PATH]
#                                 [--llama-server FILE] [--smollm2 FILE] [--help]
#
#   --rounds N           rounds of each workload, of which medians are shown (default 3)
#   --threads N          threads of either engine (default: one per core)
#   --instructions SET   what llama.cpp is built with: native (all, the default) or avx512 (no AMX)
#   --port N             the first of three ports on 127.0.0.1 (default 18200)
#   --json FILE          write the figures there
#   --work DIR           where llama.cpp and the model are made and kept (default: target/bench)
#   --python PATH        an interpreter that has llama-cpp-python[server]; nothing is built then
#   --llama-server FILE  llama.cpp's own server, to be measured too
#   --smollm2 FILE       the model file, instead of fetching it
#   --help               this text
#
# Measure on a machine that is otherwise idle. Clients, servers and engines share its cores.
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
cargo build --release --locked --quiet -p aither-node -p aither-cli -p aither-inference \
  --bins --example bench
exec python3 scripts/bench/serving.py --node "$TARGET/release/aither-node" \
  --bench "$TARGET/release/examples/bench" "$@"
