#!/bin/sh
# fuzz/run.sh TARGET SECONDS: one fuzz target for a while. cargo-fuzz wants a nightly compiler for
# its sanitizer flags; the variable lets the stable one take them.
set -eu
target=${1:-} seconds=${2:-60}
cd "$(dirname "$0")"
if [ -z "$target" ] || [ ! -f "fuzz_targets/$target.rs" ]; then
    echo "FUZZ is one of:" $(basename -s .rs fuzz_targets/*.rs) >&2
    exit 2
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
export RUSTC_BOOTSTRAP=1
exec cargo fuzz run --fuzz-dir . --target-dir "${CARGO_TARGET_DIR:-../../target}/fuzz" \
    "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10
