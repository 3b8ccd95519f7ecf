#!/usr/bin/env bats
# Peak resident memory does not depend on how long a document is, and `plan` says it beforehand.

setup_file() {
    . tests/cli/corpus.bash
    export C=$BATS_FILE_TMPDIR
    pushd "$C" >/dev/null
    for i in 1 2 3 4 5 6 7; do cat "$BOOK"; done | head -c 3000000 >3m.txt
    for i in $(seq 34); do cat 3m.txt; done | head -c 100000000 >100m.txt
    for f in 3m 100m; do
        # one line of JSON: the book holds no control characters but newlines
        { printf '{"id": "x", "text": "'; sed 's/\\/\\\\/g; s/"/\\"/g; s/$/\\n/' $f.txt | tr -d '\n'; printf '"}\n'; } >$f.jsonl
    done
    cat >job.json <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"}, "input": [{"path": "3m.txt"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 124}, "score": {"tokens": true}, "output": {"path": "out"}}
JSON
    popd >/dev/null
}
setup() { . tests/cli/corpus.bash; cd "$C"; }

# peak FILE: kilobytes of a run that is stopped after some seconds, well inside either document
peak() {
    /usr/bin/time -f '%M' -o rss "$BASIN" run job.json --set input.0.path="$1" --out "out-$1" --time-limit 6 \
        --checkpoint-seconds 1 --quiet || [ $? -eq 75 ]
    tail -n 1 rss
}
within() { awk -v a="$1" -v b="$2" -v p="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(d <= b * p / 100) }'; }

@test "100 MB against 3 MB, as text" {
    small=$(peak 3m.txt) large=$(peak 100m.txt)
    echo "$small KB, $large KB"
    within "$large" "$small" 5
}

@test "100 MB against 3 MB, as one line of JSON" {
    small=$(peak 3m.jsonl) large=$(peak 100m.jsonl)
    echo "$small KB, $large KB"
    within "$large" "$small" 5
}

@test "plan says the peak of a whole run within 15 %" {
    head -c 100000 3m.txt >whole.txt
    said=$("$BASIN" plan job.json --set input.0.path=whole.txt --out whole --json | jq .memory_bytes)
    /usr/bin/time -f '%M' -o rss "$BASIN" run job.json --set input.0.path=whole.txt --out whole --quiet
    echo "$((said / 1024)) KB said, $(cat rss) KB seen"
    within $((said / 1024)) "$(cat rss)" 15
}

@test "thousands of empty documents under many settings take no more than plan says" {
    for i in $(seq 5000); do echo '{"token_ids": []}'; done >empty.jsonl
    jq -n --arg model "$MODEL" '{version: 1, job: "score", model: {path: $model},
        input: [{path: "empty.jsonl", ids_key: "token_ids"}], output: {path: "empty"},
        cache: [range(64) | {name: "s\(.)", mode: "sink", sink_tokens: 4, window_tokens: 60}]}' >many.json
    said=$("$BASIN" plan many.json --json | jq .memory_bytes)
    /usr/bin/time -f '%M' -o rss "$BASIN" run many.json --quiet
    echo "$((said / 1024)) KB said, $(cat rss) KB seen"
    [ "$(cat rss)" -lt $((said / 1024 * 115 / 100)) ]
}

@test "an answer without end: the same after 3 seconds and after 12" {
    head -c 300 3m.txt >prompt.txt
    cat >endless.json <<JSON
{"version": 1, "job": "generate", "model": {"path": "$MODEL"}, "input": [{"path": "prompt.txt"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 124}, "output": {"path": "endless"},
 "generate": {"max_new_tokens": 100000000, "ignore_eos": true, "temperature": 1}}
JSON
    for t in 3 12; do
        /usr/bin/time -f '%M' -o rss-$t "$BASIN" run endless.json --out endless-$t --time-limit $t \
            --checkpoint-seconds 1 --quiet || [ $? -eq 75 ]
    done
    echo "$(tail -n 1 rss-3) KB, $(tail -n 1 rss-12) KB"
    within "$(tail -n 1 rss-12)" "$(tail -n 1 rss-3)" 5
}
