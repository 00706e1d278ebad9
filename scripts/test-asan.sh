#!/usr/bin/env bash
# Runs the kernels' tests under AddressSanitizer, which sees reads and writes outside their memory.
#
# Usage: scripts/test-asan.sh [TEST...] [--help]
#
#   TEST     run only tests whose names contain one of these (default: kernels, the fused block,
#            the thread team, and whole tiny models)
#   --help   this text
#
# The sanitizer is an unstable option of the compiler: a nightly toolchain is used where rustup has
# one, otherwise the stable compiler is told to accept it. x86-64 Linux only. The first build takes
# 10 to 20 minutes on two cores and stays in target/asan.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit 0 ;;
    -*) usage_error "unknown argument $argument" ;;
  esac
done

host=x86_64-unknown-linux-gnu
[ "$(uname -sm)" = 'Linux x86_64' ] || die "the sanitizer is set up for x86-64 Linux only"
if have rustup && rustup toolchain list | grep -q '^nightly-x86_64'; then
  export RUSTUP_TOOLCHAIN=nightly
else
  export RUSTC_BOOTSTRAP=1
fi
runtime=$(rustc --print sysroot)/lib/rustlib/$host/lib
ls "$runtime"/librustc*_rt.asan.a >/dev/null 2>&1 ||
  die "this toolchain has no AddressSanitizer runtime; install one with:
  rustup toolchain install nightly"

export CARGO_TARGET_DIR=$TARGET/asan
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address"
# Dependencies are not what is looked at: a low level of optimisation builds them faster. A thread
# that a test leaves behind is no leak of the kernels.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
test() {
  cargo test --locked --package aither-inference --target "$host" \
    --config 'profile.dev.package."*".opt-level=1' "$@"
}

if [ $# -gt 0 ]; then
  for name in "$@"; do
    test --lib --test references -- "$name"
  done
else
  say "kernels, fused block, thread team"
  test --lib -- ops:: kv_cache layers::
  say "tiny models of every architecture and format"
  test --test references -- logits_ a_prompt_in_pieces a_cloned_cache
fi
say "no memory error found"
