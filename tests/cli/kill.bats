#!/usr/bin/env bats
# Killed at any moment, a run loses nothing but time, and not much of that.

setup_file() {
    . tests/cli/corpus.bash
    export C=$BATS_FILE_TMPDIR
    mkdir -p "$C/books"
    cp "$BOOK" "$C/books/whole.txt"
    for i in 1 2 3 4 5 6 7 8; do tail -c +$((i * 5000)) "$BOOK" | head -c 3000 >"$C/books/zz$i.txt"; done
    cat >"$C/job.json" <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"}, "input": [{"path": "books/*.txt"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 252}, "score": {"tokens": true},
 "output": {"path": "base"}}
JSON
    "$BASIN" run "$C/job.json" --quiet
}
setup() { . tests/cli/corpus.bash; cd "$C"; }

total() { "$BASIN" cat base | jq -s 'map(.num_scored) | add'; }
# What attempts recorded: positions computed up to their last commit, positions taken over.
recorded() { jq -s "map($2) | add" "$1"/run/*.json; }

# Waits until the newest attempt in DIR has something computed on disk (the machine may be busy).
wait_for_progress() {
    local i last
    for i in $(seq 600); do
        last=$(ls "$1"/run/*.json 2>/dev/null | tail -n 1)
        [ -n "$last" ] && [ "$last" != "$2" ] && [ "$(jq .tokens_computed "$last")" -gt 0 ] && return 0
        sleep 0.05
    done
    return 1
}
newest() { ls "$1"/run/*.json 2>/dev/null | tail -n 1; }

@test "kills at random moments: the same bytes, no work done twice" {
    RANDOM=7
    kills=0
    # At most ten; a fast machine is done before that.
    for k in 1 2 3 4 5 6 7 8 9 10; do
        before=$(newest killed)
        "$BASIN" run job.json --out killed --checkpoint-seconds 0.05 --quiet &
        pid=$!
        # Most die in the middle of the work, some while starting.
        [ $((k % 4)) -eq 0 ] || wait_for_progress killed "$before" || true
        sleep 0.$(printf %02d $((RANDOM % 20 + 5)))
        kill -9 $pid 2>/dev/null || true
        wait $pid 2>/dev/null || true
        [ ! -e killed/_SUCCESS ] || break
        kills=$((kills + 1))
    done
    [ $kills -ge 2 ]
    "$BASIN" run job.json --out killed --quiet
    diff <(cd base && sha256sum results-* tokens-* _SUCCESS) <(cd killed && sha256sum results-* tokens-* _SUCCESS)
    # The attempt that finished took over what was there and computed the rest of the long document and no more.
    total=$(total)
    [ "$(jq -s "map(select(.tokens_resumed > 0 and .tokens_resumed + .tokens_computed == $total)) | length" killed/run/*.json)" -gt 0 ]
    # Every position was computed once: what attempts had committed when they died adds up to the whole.
    [ "$(recorded killed .tokens_computed)" -le $((total + 10)) ]
}

@test "a signal: exit 75 in time, saved in the middle of the document" {
    "$BASIN" run job.json --out signalled --checkpoint-seconds 0.2 --quiet &
    pid=$!
    wait_for_progress signalled ""
    start=$(date +%s%N)
    kill -TERM $pid
    status=0
    wait $pid || status=$?
    [ $status -eq 75 ]
    [ $((($(date +%s%N) - start) / 1000000)) -lt 10000 ]
    "$BASIN" run job.json --out signalled --quiet
    [ "$(jq -s 'map(.tokens_resumed) | max' signalled/run/*.json)" -gt 0 ]
    [ "$(recorded signalled .tokens_computed)" -eq "$(total)" ]
    diff <(cd base && sha256sum results-* tokens-*) <(cd signalled && sha256sum results-* tokens-*)
}

@test "a time limit: exit 75, then the rest" {
    run "$BASIN" run job.json --out limited --time-limit 1 --quiet
    [ "$status" -eq 75 ]
    "$BASIN" cat limited >/dev/null
    "$BASIN" run job.json --out limited --quiet
    diff <(cd base && sha256sum results-* tokens-*) <(cd limited && sha256sum results-* tokens-*)
}

@test "a damaged checkpoint costs time, not rows" {
    "$BASIN" run job.json --out damaged --checkpoint-seconds 0.1 --quiet &
    pid=$!
    wait_for_progress damaged ""
    kill -TERM $pid
    wait $pid || [ $? -eq 75 ]
    for f in damaged/.basin/work/*/*/state-*; do
        printf 'garbage' | dd of="$f" bs=1 seek=100 conv=notrunc 2>/dev/null
    done
    "$BASIN" run job.json --out damaged --quiet
    diff <(cd base && sha256sum results-* tokens-*) <(cd damaged && sha256sum results-* tokens-*)
}

@test "two attempts of the same part at once, without locks" {
    "$BASIN" run job.json --out twice --ignore-locks --quiet --threads 1 &
    a=$!
    sleep 0.5
    "$BASIN" run job.json --out twice --ignore-locks --quiet --threads 1 &
    b=$!
    wait $a
    wait $b
    diff <(cd base && sha256sum results-* tokens-* _SUCCESS) <(cd twice && sha256sum results-* tokens-* _SUCCESS)
    "$BASIN" verify twice
}

@test "a part that another run holds: exit 11" {
    "$BASIN" run job.json --out held --quiet &
    pid=$!
    for i in $(seq 200); do ls held/.basin/work/*/*/alive >/dev/null 2>&1 && break; sleep 0.05; done
    run "$BASIN" run job.json --out held --quiet
    [ "$status" -eq 11 ]
    kill -9 $pid
    wait $pid 2>/dev/null || true
}

@test "rows of a run in progress can be read, none twice" {
    "$BASIN" run job.json --out live --checkpoint-seconds 0.2 --quiet &
    pid=$!
    wait_for_progress live ""
    "$BASIN" status live >/dev/null
    "$BASIN" cat live --tokens >seen
    [ "$(jq -c '[.source, .offset, .setting, .first]' seen | sort | uniq -d | wc -l)" -eq 0 ]
    wait $pid
    "$BASIN" cat live --tokens >all
    head -n "$(wc -l <seen)" all | cmp - seen
}

@test "a signal while standard input is waited for" {
    mkfifo pipe
    sleep 60 >pipe &
    writer=$!
    "$BASIN" score "$MODEL" - <pipe >/dev/null 2>&1 &
    pid=$!
    sleep 1
    kill -TERM $pid
    status=0
    wait $pid || status=$?
    kill $writer
    [ $status -eq 75 ]
}
