#!/usr/bin/env bash
# Starts a broker, sends real data through it, reads it back and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${MILLRACE_BIN_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/release}
millrace="$bin/millrace"
work=$(mktemp -d)
broker=
finish() {
    [ -z "$broker" ] || { kill "$broker" 2>/dev/null && wait "$broker" 2>/dev/null; } || true
    rm -rf "$work"
}
trap finish EXIT

bold() { printf '\n\033[1m%s\033[0m\n' "$1"; }
run() { printf '$ %s\n' "$*"; }

bold "1. A broker, in one process, with its data in a new directory"
run "millrace dev --data-dir $work/data"
"$millrace" dev --data-dir "$work/data" --port 0 >"$work/ready" 2>"$work/log" &
broker=$!
for _ in $(seq 100); do
    grep -q '^ready ' "$work/ready" && break
    kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
MILLRACE_BOOTSTRAP=$(sed -n 's/^ready //p' "$work/ready")
[ -n "$MILLRACE_BOOTSTRAP" ] || { echo "the broker did not start:" >&2; cat "$work/log" >&2; exit 1; }
export MILLRACE_BOOTSTRAP
echo "ready $MILLRACE_BOOTSTRAP"

bold "2. A topic"
run "millrace topic create words --partitions 3"
"$millrace" topic create words --partitions 3

bold "3. Real input: every line of this project's documentation, keyed by its file"
grep -rH '' README.md ARCHITECTURE.md proto/millrace >"$work/input"
run "millrace produce words --key-separator :  < $(wc -l <"$work/input") lines"
"$millrace" produce words --key-separator : <"$work/input"

bold "4. And back: the same lines, in order for each key"
run "millrace consume words --from beginning --exit-at-end --format key-value"
"$millrace" consume words --from beginning --exit-at-end --format key-value --key-separator : >"$work/output"
head -n 3 "$work/output"
echo "..."
if diff <(sort -s -t: -k1,1 "$work/input") <(sort -s -t: -k1,1 "$work/output") >"$work/diff"; then
    echo "$(wc -l <"$work/output") lines came back, none lost, none changed, in order for each key."
else
    echo "what came back differs:" >&2
    head -n 20 "$work/diff" >&2
    exit 1
fi

bold "5. What is stored"
run "millrace topic describe words"
"$millrace" topic describe words

bold "6. Kill the broker without warning, start it again: all is still there"
kill -9 "$broker"
wait "$broker" 2>/dev/null || true
run "kill -9; millrace dev --data-dir $work/data"
: >"$work/ready"
"$millrace" dev --data-dir "$work/data" --port "${MILLRACE_BOOTSTRAP##*:}" >"$work/ready" 2>>"$work/log" &
broker=$!
for _ in $(seq 100); do
    grep -q '^ready ' "$work/ready" && break
    kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
run "millrace consume words --from beginning --exit-at-end | wc -l"
count=$("$millrace" consume words --from beginning --exit-at-end | wc -l)
echo "$count"
[ "$count" = "$(wc -l <"$work/input")" ] || { echo "lines were lost" >&2; exit 1; }

bold "Try next"
cat <<TEXT
  export PATH="$bin:\$PATH"
  millrace dev                                   # a broker for you, on localhost:9650
  millrace topic create orders --partitions 6    # in another terminal
  echo "hello" | millrace produce orders
  millrace consume orders --from beginning
  millrace bench produce orders --records 1000000 --record-size 1024
  millrace --help
TEXT
