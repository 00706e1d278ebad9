# The dev loop. `just` alone lists the recipes; scripts/test.sh runs all checks without just.

set positional-arguments

# Lists the recipes.
default:
    @just --list --unsorted

# Format, tidy, lints and unit tests: before every commit.
check:
    scripts/test.sh --quick

# Everything that CI runs.
test *arguments:
    scripts/test.sh "$@"

# Builds, fetches the default model and starts a node; takes the node's flags.
run *arguments:
    scripts/run.sh "$@"

# Measures inference beside llama.cpp; takes the script's flags.
bench *arguments:
    scripts/bench-inference.sh "$@"

# Simulates federations of 100, 300 and 1000 nodes, or of as many as are named.
federation *numbers:
    cargo run --release -p aither-federation-tests --example federation -- "$@"

# The documentation of all crates.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --open

# Fuzzes what reads GGUF, agent cards, capability tokens and what nodes of a federation say, each
# for so many seconds (needs cargo-fuzz).
fuzz seconds='60':
    mkdir -p inference/fuzz/corpus/gguf protocol/fuzz/corpus/card
    mkdir -p protocol/fuzz/corpus/capability_token protocol/fuzz/corpus/federation
    cd inference && RUSTC_BOOTSTRAP=1 cargo fuzz run gguf fuzz/corpus/gguf testdata/tiny -- \
        -max_total_time={{ seconds }} -rss_limit_mb=512
    cd protocol && RUSTC_BOOTSTRAP=1 cargo fuzz run card fuzz/corpus/card testdata/v1 -- \
        -max_total_time={{ seconds }} -rss_limit_mb=512
    cd protocol && RUSTC_BOOTSTRAP=1 cargo fuzz run capability_token \
        fuzz/corpus/capability_token testdata/v1/capability-token -- \
        -max_total_time={{ seconds }} -rss_limit_mb=512
    cd protocol && RUSTC_BOOTSTRAP=1 cargo fuzz run federation fuzz/corpus/federation -- \
        -max_total_time={{ seconds }} -rss_limit_mb=512

# Formats Rust and Python.
fmt:
    cargo fmt --all
    .venv/bin/ruff format .
