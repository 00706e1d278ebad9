#!/usr/bin/env bash
# Measures agents' memory: writes, reads and searches, beside Chroma on the same data.
#
# Usage: scripts/bench-memory.sh [--entries N] [--large N,M] [--requests N] [--no-chroma]
#                                [--embedding-model FILE] [--json FILE] [--work DIR] [--help]
#
#   --entries N             entries that are written and searched (default 100 000)
#   --large N,M             then fill up to so many and search again, for instance 1000000; what is
#                           added has vectors near to those of other entries, made without a model
#   --requests N            requests of each measurement (default 20 000)
#   --no-chroma             without Chroma, which otherwise comes from PyPI
#   --embedding-model FILE  the embedding model's file (default: fetched like the node's)
#   --json FILE             write the figures there
#   --work DIR              where files are made, and removed afterwards (default: /var/tmp)
#   --help                  this text
#
# Each write is on the disk before it is acknowledged, so DIR must be on one. Measure on a machine
# that is otherwise idle; the clients share its cores with the node.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

model=''
for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
    --embedding-model | --embedding-model=*) model=given ;;
  esac
done

require_build_tools
# With the packages that scripts/run.sh builds: another choice would build burn again.
cargo build --release --locked --quiet -p aither-node -p aither-cli --bins \
  --example http-load --example memory-exact
if [ -z "$model" ]; then
  "$TARGET/release/aither-node" models pull "$EMBEDDING_NAME" --data-dir "$TARGET/bench/models"
  model=$(find "$TARGET/bench/models" -name '*.gguf' | head -n 1)
  set -- --embedding-model "$model" "$@"
fi
exec python3 scripts/bench/memory.py --program "$TARGET/release/aither-node" \
  --load "$TARGET/release/examples/http-load" --exact "$TARGET/release/examples/memory-exact" \
  --profile release "$@"
