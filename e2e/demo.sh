#!/usr/bin/env bash
# Starts three brokers in one process, sends real data through them, kills them in the middle of a write, and compares what
# comes back.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

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

now_ms() { echo $(($(date +%s%N) / 1000000)); }
step_began=
# took: how long the step was that ends here.
took() {
    [ -n "$step_began" ] || return 0
    local ms=$(($(now_ms) - step_began))
    printf '   (%d.%d s)\n' $((ms / 1000)) $((ms % 1000 / 100))
    step_began=
}
step() {
    took
    if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n%s\n' "$1"; fi
    step_began=$(now_ms)
}
show() { printf '$ %s\n' "$*"; }
# field NAME: a number of the JSON object on standard input.
field() { sed -n "s/^ *\"$1\": \([0-9.]*\),*\$/\1/p"; }

# free_port: one from which on the ports of three brokers are free: PORT, +1, +2, and the same 10 and 20 above.
free_port() {
    local port offset
    for port in $(shuf -i 200-300 -n 20); do
        port=$((port * 100))
        for offset in 0 1 2 10 11 12 20 21 22; do
            if (: >"/dev/tcp/127.0.0.1/$((port + offset))") 2>/dev/null; then continue 2; fi
        done
        echo "$port"
        return
    done
    echo "no free ports were found" >&2
    return 1
}

# start PORT: brokers whose data is kept; sets MILLRACE_BOOTSTRAP, which the command reads.
start() {
    show "millrace dev --brokers 3 --data-dir $work/data --port $1 &"
    : >"$work/ready"
    millrace dev --brokers 3 --data-dir "$work/data" --port "$1" >"$work/ready" 2>>"$work/log" &
    broker=$!
    for _ in $(seq 300); do
        grep -q '^ready ' "$work/ready" && break
        kill -0 "$broker" 2>/dev/null || break
        sleep 0.1
    done
    MILLRACE_BOOTSTRAP=$(sed -n 's/^ready //p' "$work/ready")
    [ -n "$MILLRACE_BOOTSTRAP" ] || { echo "the brokers did not start:" >&2; cat "$work/log" >&2; exit 1; }
    export MILLRACE_BOOTSTRAP
    echo "ready $MILLRACE_BOOTSTRAP"
}

echo "Seven steps, about fifteen seconds: three brokers, real data there and back, a kill in the middle of a write."
echo "To follow along in another terminal while it runs, from this directory:"
show "export PATH=\"$bin:\$PATH\""

step "1. Three brokers in one process, their data in a new directory"
start "$(free_port)"
show "export MILLRACE_BOOTSTRAP=$MILLRACE_BOOTSTRAP"

step "2. A topic: three partitions, three copies of each"
show "millrace topic create words --partitions 3"
millrace topic create words --partitions 3

step "3. Real input: each line of this project's documentation, its key the file it is in; and back"
grep -rH '' README.md ARCHITECTURE.md proto/millrace >"$work/input"
lines=$(wc -l <"$work/input")
show "grep -rH '' README.md ARCHITECTURE.md proto/millrace | millrace produce words --key-separator :"
millrace produce words --key-separator : <"$work/input"
read_back=(millrace consume words --from beginning --exit-at-end --format key-value --key-separator :)
show "${read_back[*]}"
"${read_back[@]}" >"$work/output"
# Within a key the order must be that of the input.
if ! diff <(sort -s -t: -k1,1 "$work/input") <(sort -s -t: -k1,1 "$work/output") >"$work/diff"; then
    echo "what came back differs:" >&2
    head -n 20 "$work/diff" >&2
    exit 1
fi
# Sentences, not headings or brackets.
grep -m 3 -E ':[A-Z][a-z]+ .{60,}' "$work/output" | cut -c 1-110
echo "..."
echo "=> $lines lines sent, the same $lines came back, in order for each key."

step "4. kill -9 of all brokers while a producer writes; they are started again, the producer goes on by itself"
numbers=200000
parts=40
feed() {
    for part in $(seq 0 $((parts - 1))); do
        seq $((part * numbers / parts + 1)) $(((part + 1) * numbers / parts))
        sleep 0.05
    done
}
show "millrace topic create numbers --partitions 3"
millrace topic create numbers --partitions 3
show "(for i in \$(seq 0 39); do seq \$((i * 5000 + 1)) \$((i * 5000 + 5000)); sleep 0.05; done) | millrace produce numbers &"
feed | millrace --output json produce numbers >"$work/written" 2>"$work/producer" &
producer=$!
# Until the first thousand are acknowledged and can be read.
millrace consume numbers --from beginning --max-messages 1000 >"$work/first"
echo "1000 of $numbers are acknowledged and read back, the others are on their way."
show "kill -9 $broker"
kill -0 "$producer" 2>/dev/null || { echo "the producer ended too early:" >&2; cat "$work/producer" >&2; exit 1; }
# The shell would tell of the kill in its own words.
{ kill -9 "$broker" && wait "$broker"; } 2>/dev/null || true
start "${MILLRACE_BOOTSTRAP##*:}"
wait "$producer" || { echo "the producer failed:" >&2; cat "$work/producer" >&2; exit 1; }
acknowledged=$(field written <"$work/written")
show "millrace consume numbers --from beginning --exit-at-end | sort | uniq -c | awk '{ n++; d += \$1 > 1 } END { print n, d + 0 }'"
millrace consume numbers --from beginning --exit-at-end | sort -n >"$work/found"
found=$(uniq "$work/found" | wc -l)
doubled=$(uniq -d "$work/found" | wc -l)
echo "=> $acknowledged acknowledged, $found found, $doubled doubled."
[ "$acknowledged" -eq "$numbers" ] && seq "$numbers" | cmp - "$work/found" >&2 ||
    { echo "that should be $numbers, $numbers and 0" >&2; exit 1; }

step "5. What is stored, and what it survives"
show "millrace topic describe words"
millrace topic describe words

step "6. A short benchmark, into a topic of its own"
show "millrace topic create bench --partitions 3"
millrace topic create bench --partitions 3
show "millrace bench produce bench --records 200000 --record-size 1024"
millrace bench produce bench --records 200000 --record-size 1024 >"$work/bench"
show "millrace bench consume bench --records 200000"
millrace bench consume bench --records 200000 >"$work/bench-read"
# told FILE: the two figures of a benchmark.
told() {
    local records mib
    records=$(field records_per_second <"$1")
    mib=$(field mib_per_second <"$1")
    echo "${records%.*} records/s, ${mib%.*} MiB/s"
}
echo "=> written, each acknowledged after fdatasync: $(told "$work/bench"); read: $(told "$work/bench-read")."
echo "   Three brokers, each with its copy, and the client share this machine; \`make bench\` measures thoroughly, beside Kafka and NATS."

step "7. A clean stop, and every batch and index on the disk is checked"
show "kill $broker; for dir in $work/data/*; do millrace log verify \$dir; done"
kill "$broker"
wait "$broker" || { echo "the brokers did not stop cleanly:" >&2; cat "$work/log" >&2; exit 1; }
broker=
for dir in "$work"/data/*; do
    millrace log verify "$dir" >"$work/verified"
    # One is enough to see; each of the three has a copy of each partition.
    if [ "$dir" = "$work/data/broker-0" ]; then cat "$work/verified"; fi
done
echo "=> and the same on the disks of the other two."

step "Done. The demo's brokers are stopped, and their data in $work is removed now."
step_began=
cat <<TEXT
Try next, with brokers of your own:
  export PATH="$bin:\$PATH"
  unset MILLRACE_BOOTSTRAP
  millrace dev --brokers 3 --data-dir ./data     # localhost:9650 is the first of them; until Ctrl-C
  millrace topic create orders --partitions 6    # in another terminal, with the same PATH
  echo "hello" | millrace produce orders
  millrace consume orders --from beginning
  millrace --help
TEXT
