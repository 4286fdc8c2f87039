#!/bin/sh
# Proves that the simulator notices: takes one safety rule away at a time, in a copy of the last
# commit, and demands that a seed fails within MILLRACE_SIM_SEEDS (2,000) from 0.
#
#   e2e/simulator/mutants.sh [NAME...]
#
# A mutant is a patch in mutants/, named after what becomes of the rules. Built as tests are, which
# takes a fraction of the time of an optimised build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel)
# Built apart: cargo takes equal paths within two workspaces for the same crate, and what is built
# of a mutant must not pass for the real one.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/mutants
copy=$CARGO_TARGET_DIR/tree
out=$CARGO_TARGET_DIR/failed
mkdir -p "$CARGO_TARGET_DIR"
remove() {
    git -C "$root" worktree remove --force "$copy" 2>/dev/null || true
    rm -rf "$copy"
}
remove
trap remove EXIT INT TERM
git -C "$root" worktree add --detach --quiet "$copy" HEAD
export CARGO_TARGET_DIR
export MILLRACE_SIM_SEEDS="${MILLRACE_SIM_SEEDS:-2000}" MILLRACE_SIM_FAIL_FAST=1
missed=0
cd "$copy"
for patch in "$here"/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
    git apply "$patch"
    # A mutant that does not build proves nothing.
    if ! cargo test --quiet -p millrace-simulator --test seeds --no-run >"$out" 2>&1; then
        echo "$name: does NOT build; see $out"
        exit 1
    fi
    if cargo test --quiet -p millrace-simulator --test seeds every_seed >"$out" 2>&1; then
        printf '%-40s NOT noticed in %s seeds\n' "$name" "$MILLRACE_SIM_SEEDS"
        missed=1
    elif found=$(grep -E '^seed [0-9]+: ' "$out"); then
        printf '%-40s %s\n' "$name" "$(echo "$found" | cut -d: -f1-2 | head -n 1)"
    else
        echo "$name: failed without a seed; see $out"
        exit 1
    fi
    git checkout --quiet -- .
done
exit $missed
