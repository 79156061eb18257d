#!/usr/bin/env bash
# Counts the words of a text on stdin with five processes: a zipper, a function that splits lines
# into words, a function that counts them, a sink, and a source. Prints the same as `sort | uniq -c`.
#
#   examples/wordcount/run.sh < LICENSE
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
zipper=${ZIPPER_BIN:-$root/target/release/zipper}
guests=$root/examples/guests/prebuilt
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

[ -x "$zipper" ] || { echo "wordcount: $zipper is missing: cargo build --release --bin zipper" >&2; exit 1; }

# Waits until a process has logged a text.
await_log() {
  for _ in $(seq 200); do
    grep -q "$2" "$work/$1" 2>/dev/null && return
    sleep 0.05
  done
  echo "wordcount: $1 did not start:" >&2
  cat "$work/$1" >&2
  exit 1
}

"$zipper" serve --log info --set listen='[tcp://127.0.0.1:0]' >"$work/serve" 2>&1 &
await_log serve 'listens on'
at=$(sed -n 's/.*listens on //p' "$work/serve")

"$zipper" run -z "$at" --log info "$guests/word-split.wasm" >"$work/split" 2>&1 &
"$zipper" run -z "$at" --log info "$guests/word-count.wasm" >"$work/count" 2>&1 &
"$zipper" sink -z "$at" --log info --observe 0x22 --format raw --until-mark 2>"$work/sink" &
sink=$!
await_log split 'the function runs'
await_log count 'the function runs'
await_log sink 'reading'

"$zipper" source -z "$at" --tag 0x20 --end-mark >"$work/source"
wait "$sink"
