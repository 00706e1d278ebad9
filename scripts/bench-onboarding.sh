#!/usr/bin/env bash
# Measures a node with many agents: taking them aboard, telling them apart, finding them again.
#
# Usage: scripts/bench-onboarding.sh [--agents N] [--connections N] [--requests N]
#                                    [--program PATH] [--auth-cost PATH]
#                                    [--json FILE] [--work DIR] [--help]
#
#   --agents N        how many come aboard (default 100 000: some ten minutes)
#   --connections N   connections that onboard at once (default 16)
#   --requests N      requests of each later measurement (default 5000)
#   --program PATH    the node to measure, instead of building one; its profile goes unnamed
#   --auth-cost PATH  node/examples/auth-cost built likewise; without it, with --program, the cost
#                     of authentication is measured over HTTP alone
#   --json FILE       write the figures there
#   --work DIR        where the node's files are made, and removed afterwards (default: /var/tmp)
#   --help            this text
#
# Each agent is on the disk before it is told so, so DIR must be on one. Measure on a machine that
# is otherwise idle; the clients share its cores with the node.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

programs=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
    --program | --program=*) programs=(given) ;;
  esac
done

if [ ${#programs[@]} = 0 ]; then
  require_build_tools
  cargo build --release --locked --quiet -p aither-node --bin aither-node --example auth-cost
  set -- --program "$TARGET/release/aither-node" \
    --auth-cost "$TARGET/release/examples/auth-cost" --profile release "$@"
fi
exec python3 scripts/bench/onboarding.py "$@"
