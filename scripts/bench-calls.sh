#!/usr/bin/env bash
# Measures calls of agents through a node, beside calling the agent directly, and events.
#
# Usage: scripts/bench-calls.sh [--requests N] [--many N] [--events N] [--rounds N] [--json FILE]
#                               [--work DIR] [--help]
#
#   --requests N   calls one after another, of each kind and round (default 2 000)
#   --many N       calls with 64 at once (default 40 000)
#   --events N     events that 100 subscribers get (default 5 000)
#   --rounds N     rounds, whose medians are shown (default 5)
#   --json FILE    write the figures there
#   --work DIR     where files are made, and removed afterwards (default: /var/tmp)
#   --help         this text
#
# Every call is paid, and on the disk before it is answered, so DIR must be on one. Client, agent
# and node share the machine, which should be otherwise idle.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
  esac
done

require_build_tools
# With the packages that scripts/run.sh builds: another choice would build burn again.
cargo build --release --locked --quiet -p aither-node -p aither-cli --bins \
  --example http-load --example calls-agent --example event-fanout
exec python3 scripts/bench/calls.py --programs "$TARGET/release" --profile release "$@"
