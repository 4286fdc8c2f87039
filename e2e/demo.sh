#!/usr/bin/env bash
# Starts a broker, sends real data through it, kills it, and compares what comes back.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(realpath -m "${MILLRACE_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}")
PATH="$bin:$PATH"
command -v millrace >/dev/null || { echo "$bin has no millrace: run \`make demo\`, which builds it" >&2; exit 1; }
work=$(mktemp -d)
broker=
finish() {
    [ -z "$broker" ] || { kill "$broker" 2>/dev/null && wait "$broker" 2>/dev/null; } || true
    rm -rf "$work"
}
trap finish EXIT

step() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n%s\n' "$1"; fi; }
show() { printf '$ %s\n' "$*"; }

# start PORT: a broker whose data is kept; sets MILLRACE_BOOTSTRAP, which the command reads.
start() {
    show "millrace dev --data-dir $work/data &"
    : >"$work/ready"
    millrace dev --data-dir "$work/data" --port "$1" --http-port 0 >"$work/ready" 2>>"$work/log" &
    broker=$!
    for _ in $(seq 300); do
        grep -q '^ready ' "$work/ready" && break
        kill -0 "$broker" 2>/dev/null || break
        sleep 0.1
    done
    MILLRACE_BOOTSTRAP=$(sed -n 's/^ready //p' "$work/ready")
    [ -n "$MILLRACE_BOOTSTRAP" ] || { echo "the broker did not start:" >&2; cat "$work/log" >&2; exit 1; }
    export MILLRACE_BOOTSTRAP
    echo "ready $MILLRACE_BOOTSTRAP"
}

step "1. A broker in one process, its data in a new directory"
start 0

step "2. A topic"
show "millrace topic create words --partitions 3"
millrace topic create words --partitions 3

step "3. Real input: each line of this project's documentation, its key the file it is in"
grep -rH '' README.md ARCHITECTURE.md proto/millrace >"$work/input"
lines=$(wc -l <"$work/input")
show "grep -rH '' README.md ARCHITECTURE.md proto/millrace | millrace produce words --key-separator :"
millrace produce words --key-separator : <"$work/input"

# Reads everything back and compares; within a key the order must be that of the input.
read_back() {
    show "millrace consume words --from beginning --exit-at-end --format key-value --key-separator :"
    millrace consume words --from beginning --exit-at-end --format key-value --key-separator : >"$work/output"
    if ! diff <(sort -s -t: -k1,1 "$work/input") <(sort -s -t: -k1,1 "$work/output") >"$work/diff"; then
        echo "what came back differs:" >&2
        head -n 20 "$work/diff" >&2
        exit 1
    fi
}

step "4. And back"
read_back
head -n 3 "$work/output"
echo "..."
echo "=> $lines lines sent, the same $lines came back, in order for each key."

step "5. What is stored"
show "millrace topic describe words"
millrace topic describe words

step "6. The broker is killed without warning and started again"
show "kill -9 $broker"
# The shell would tell of the kill in its own words.
{ kill -9 "$broker" && wait "$broker"; } 2>/dev/null || true
start "${MILLRACE_BOOTSTRAP##*:}"
read_back
echo "=> All $lines lines are still there, unchanged."

step "7. A clean stop, and every batch and index on the disk is checked"
show "kill $broker; millrace log verify $work/data"
kill "$broker"
wait "$broker" || { echo "the broker did not stop cleanly:" >&2; cat "$work/log" >&2; exit 1; }
broker=
millrace log verify "$work/data"

step "Try next"
cat <<TEXT
  export PATH="$bin:\$PATH"
  millrace dev                                   # a broker on localhost:9650, until Ctrl-C
  millrace topic create orders --partitions 6    # in another terminal
  echo "hello" | millrace produce orders
  millrace consume orders --from beginning
  millrace bench produce orders --records 1000000 --record-size 1024
  millrace --help
TEXT
