#!/bin/sh
# Proves that the simulator notices: takes one safety rule away at a time, in a copy of the last
# commit, and demands that a random run fails within as many seeds as the file `expected` says, from
# 0 on. Tells which scenarios fail, too. Then the same for the real metadata quorum under its random
# faults, from seed 1 on.
#
#   e2e/simulator/mutants.sh [NAME...]
#
# A mutant is a patch in mutants/ or quorum-mutants/, named after what becomes of the rules. MILLRACE_SIM_SEEDS takes the
# place of all numbers in `expected`: for a new mutant, or after a change of what seeds draw. Built as
# tests are, which takes a fraction of the time of an optimised build.
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
export CARGO_TARGET_DIR MILLRACE_SIM_FAIL_FAST=1
all=${MILLRACE_SIM_SEEDS:-}
missed=0
cd "$copy"

# Whether the mutant NAME is asked for, of those given.
wanted() {
    name=$1
    shift
    case " $* " in "  " | *" $name "*) true ;; *) false ;; esac
}
# Within how many seeds it must be found, and of which test.
within() {
    seeds=${all:-$(awk -v name="$1" '$1 == name { print $2 }' "$here/expected")}
    runs=$(awk -v name="$1" '$1 == name { print $3 }' "$here/expected")
    runs=${runs:-seeds}
    if [ -z "$seeds" ]; then
        echo "$1: $here/expected does not say within how many seeds it must be found"
        exit 1
    fi
}
# A mutant that does not build proves nothing.
builds() {
    name=$1
    shift
    if ! cargo test --quiet "$@" --no-run >"$out" 2>&1; then
        echo "$name: does NOT build; see $out"
        exit 1
    fi
}
# Tells by which seed random runs have failed, which must be in the output; or that they did not.
tell() {
    if [ "$2" = passed ]; then
        by="NOT noticed in $seeds seeds"
        missed=1
    elif found=$(grep -oE '\bseed [0-9]+: .*' "$out"); then
        by="$(echo "$found" | cut -d: -f1-2 | head -n 1) (within $seeds)"
    else
        echo "$1: failed without a seed; see $out"
        exit 1
    fi
    printf '%-40s %s\n' "$1" "$by"
}

for patch in "$here"/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    wanted "$name" "$@" || continue
    within "$name"
    git apply "$patch"
    builds "$name" -p millrace-simulator --test "$runs" --test scenarios
    ended=failed
    MILLRACE_SIM_SEEDS=$seeds cargo test --quiet -p millrace-simulator --test "$runs" every_seed >"$out" 2>&1 && ended=passed
    tell "$name" "$ended"
    cargo test --quiet -p millrace-simulator --test scenarios --no-fail-fast >"$out" 2>&1 || true
    sed -n 's/^    \([a-z]*::[a-z_]*\)$/    \1/p' "$out" | sort -u
    git checkout --quiet -- .
done

for patch in "$here"/quorum-mutants/*.patch; do
    name=$(basename "$patch" .patch)
    wanted "$name" "$@" || continue
    within "$name"
    git apply "$patch"
    builds "$name" -p millrace-server --lib
    ended=failed
    MILLRACE_QUORUM_SEEDS=$seeds cargo test --quiet -p millrace-server --lib quorum::tests::chaos::whatever >"$out" 2>&1 && ended=passed
    # What no run has met is no seed's fault.
    tell "$name" "$ended"
    git checkout --quiet -- .
done
exit $missed
