#!/usr/bin/env bash
# Measures the ledger beside PostgreSQL and SQLite: 64 clients, each transfer a hold and its post.
#
# Usage: scripts/bench-ledger.sh [--rounds N] [--seconds N] [--large] [--transfers N]
#                                [--json FILE] [--work DIR] [--help]
#
#   --rounds N      rounds, of which medians are shown (default 3)
#   --seconds N     seconds of each measurement (default 10)
#   --large         measure our ledger also with many transfers in its file
#   --transfers N   how many these are (default 10 million: some 4 GB of disk, several minutes)
#   --json FILE     write the figures there
#   --work DIR      where all files are made, and removed afterwards (default: /var/tmp)
#   --help          this text
#
# Whatever is measured waits for the disk before it answers, so DIR must be on one. Measure on a
# machine that is otherwise idle. As root PostgreSQL is installed where it is missing.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
  esac
done

# Debian keeps its programs apart from all others.
have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
  install_packages PostgreSQL postgresql
require_build_tools
cargo build --release --locked --quiet -p aither-ledger --example ledger-bench
exec python3 scripts/bench/ledgers.py --program "$TARGET/release/examples/ledger-bench" "$@"
