#!/bin/sh
# Proves that the simulator notices: takes one safety rule away at a time, in a copy of the
# working tree's last commit, and demands that some seed fails.
#
#   e2e/simulator/mutants.sh [NAME...]
#
# Found within 2,000 seeds from 0, of which so many fail (first seed):
#   written-counts-as-durable          1966  (0)
#   watermark-moves-below-the-minimum  1264  (0)
#   lost-disks-stay-eligible            165  (0)
#   pending-members-do-not-count         11  (39)
#   own-epoch-end-is-not-looked-at        2  (454)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel)
copy=$(mktemp -d)
trap 'git -C "$root" worktree remove --force "$copy/tree" 2>/dev/null || true; rm -rf "$copy"' EXIT INT TERM
git -C "$root" worktree add --detach --quiet "$copy/tree" HEAD
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/mutants"
export MILLRACE_SIM_SEEDS="${MILLRACE_SIM_SEEDS:-2000}"
missed=0
cd "$copy/tree"
for patch in "$here"/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
    git apply "$patch"
    cargo test --quiet --release -p millrace-simulator --test seeds --no-run
    if cargo test --quiet --release -p millrace-simulator --test seeds every_seed >"$copy/out" 2>&1; then
        echo "$name: NOT noticed in $MILLRACE_SIM_SEEDS seeds"
        missed=1
    else
        echo "$name: noticed; $(grep -E '^[0-9]+ of [0-9]+ seeds failed' "$copy/out" || echo 'see the output')"
    fi
    git checkout --quiet -- .
done
exit $missed
