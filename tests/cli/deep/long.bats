#!/usr/bin/env bats
# Minutes of work, for `make test-all`: a 100 MB document to its end, in both forms.

setup_file() {
    . tests/cli/corpus.bash
    export C=$BATS_FILE_TMPDIR
    for i in $(seq 215); do cat "$BOOK"; done | head -c 100000000 >"$C/100m.txt"
    head -c 1000000 "$C/100m.txt" >"$C/1m.txt"
    for f in 1m 100m; do
        { printf '{"id": "x", "text": "'; sed 's/\\/\\\\/g; s/"/\\"/g; s/$/\\n/' "$C/$f.txt" | tr -d '\n'; printf '"}\n'; } >"$C/$f.jsonl"
    done
    cat >"$C/job.json" <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"}, "input": [{"path": "1m.txt"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 124}, "score": {"tokens": true}, "output": {"path": "out"}}
JSON
}
setup() { . tests/cli/corpus.bash; cd "$C"; }

peak() {
    /usr/bin/time -f '%M' -o rss "$BASIN" run job.json --set input.0.path="$1" --out "out-$1" --quiet
    cat rss
}
within() { awk -v a="$1" -v b="$2" -v p="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(d <= b * p / 100) }'; }

@test "peak memory of 100 MB, to the end: as text" {
    small=$(peak 1m.txt) large=$(peak 100m.txt)
    echo "$small KB, $large KB"
    within "$large" "$small" 5
    "$BASIN" verify out-100m.txt
}

@test "peak memory of 100 MB, to the end: as one line of JSON" {
    small=$(peak 1m.jsonl) large=$(peak 100m.jsonl)
    echo "$small KB, $large KB"
    within "$large" "$small" 5
}
