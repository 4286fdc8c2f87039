#!/usr/bin/env bash
# Runs each fuzz target for some seconds: fuzz.sh SECONDS. Needs a nightly compiler, g++ and
# cargo-fuzz, which it installs.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}

if ! rustup toolchain list 2>/dev/null | grep -q nightly; then
    echo "fuzzing needs a nightly compiler: rustup toolchain install nightly" >&2
    exit 1
fi
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
export CARGO_TARGET_DIR
if ! cargo fuzz --version >/dev/null 2>&1; then
    CARGO_TARGET_DIR="$CARGO_TARGET_DIR/tools" cargo install --quiet --locked cargo-fuzz
fi
for folder in proto/fuzz broker/log/fuzz; do
    [ -d "$folder" ] || continue
    for target in "$folder"/fuzz_targets/*.rs; do
        name=$(basename "$target" .rs)
        echo "--- $name, $seconds s"
        (
            cd "$folder"
            mkdir -p "corpus/$name" "seeds/$name"
            cargo +nightly fuzz run --fuzz-dir . "$name" "corpus/$name" "seeds/$name" -- \
                -max_total_time="$seconds" -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
        )
    done
done
