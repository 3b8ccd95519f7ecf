#!/usr/bin/env bats
# Compressed input gives the rows of the plain files, survives kills, and fails by name.

setup_file() {
    . tests/cli/corpus.bash
    export BASIN TOP MODEL C=$BATS_FILE_TMPDIR
    make_corpus "$C/plain"
    cd "$C"
    mkdir all packed
    cp plain/books/long.txt plain/books/part3.txt plain/books/empty.txt plain/books/torn.txt all
    cp plain/lines/a.jsonl all
    head -n 5 plain/ids.jsonl >all/ids.jsonl
    # a line that is longer than the reader's buffers, between others
    { head -n 5 all/a.jsonl
      printf '{"n": 1, "id": "huge", "text": "%s"}\n' "$(tail -c +1000 "$BOOK" | head -c 420000 | tr -d '"\\\r' | tr '\n' ' ')"
      sed -n 6,20p all/a.jsonl; tail -n 5 all/a.jsonl; } >all/b.jsonl
    { cat all/b.jsonl; head -n 40 all/a.jsonl; } >killed.jsonl
    zstd -q killed.jsonl
    rm all/a.jsonl
    for f in all/*; do
        gzip -nc "$f" >"packed/${f##*/}.gz"
        zstd -qc --check "$f" >"packed/${f##*/}.zst"
        lz4 -qc "$f" >"packed/${f##*/}.lz4"
    done
    # two members, two frames and a skippable one between
    half=$(($(stat -c %s all/b.jsonl) / 2))
    for n in gz zst lz4; do
        case $n in gz) z='gzip -nc' ;; zst) z='zstd -qc' ;; lz4) z='lz4 -qc' ;; esac
        { head -c $half all/b.jsonl | $z
          [ $n = gz ] || printf '\x50\x2a\x4d\x18\x03\x00\x00\x00abc'
          tail -c +$((half + 1)) all/b.jsonl | $z; } >"packed/b.jsonl.$n"
    done
    manifest plain.json "" plain-out
    for n in gz zst lz4; do manifest $n.json .$n $n-out; done
    "$BASIN" run plain.json --quiet || [ $? -eq 3 ]
    for n in gz zst lz4; do "$BASIN" run $n.json --quiet || [ $? -eq 3 ]; done
    cd "$TOP"
}
setup() { . tests/cli/corpus.bash; cd "$C"; }

# manifest FILE SUFFIX OUT: the corpus with that suffix
manifest() {
    local dir=packed
    [ -n "$2" ] || dir=all
    cat >"$1" <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"},
 "input": [{"path": "$dir/*.txt$2"}, {"path": "$dir/b.jsonl$2", "id_key": "id"},
           {"path": "$dir/ids.jsonl$2", "ids_key": "token_ids", "id_key": "id"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 60},
 "score": {"tokens": true, "limit_tokens": 1000}, "output": {"path": "$3"}}
JSON
}
# rows with the names of files taken back to the plain ones
rows() { "$BASIN" cat "$@" | sed -E 's#"packed/#"all/#g; s#\.(gz|zst|lz4)(["\#])#\2#g'; }

@test "the rows of .gz, .zst and .lz4 are those of the plain files" {
    rows plain-out >want
    rows plain-out --tokens >want-tokens
    [ "$(wc -l <want)" -gt 30 ]
    grep -q '"id":"huge"' want
    for n in gz zst lz4; do
        rows $n-out | cmp - want
        rows $n-out --tokens | cmp - want-tokens
        diff <(cat plain-out/errors-*) <(cat $n-out/errors-* | sed -E "s#packed/#all/#g; s#\.$n([\"\#:])#\1#g")
    done
}

@test "a compressed file is one part of its compressed size" {
    [ "$(ls gz-out/results-* | wc -l)" -eq 6 ]
    jq -e '.parts | map(.slices[] | select(.source == "packed/b.jsonl.gz")) == [{"source": "packed/b.jsonl.gz", "begin": 0, "end": -1}]' gz-out/job.json
    jq -e --argjson n "$(stat -c %s packed/b.jsonl.zst)" '[.parts[] | select(.slices[0].source == "packed/b.jsonl.zst") | .bytes] == [$n]' zst-out/job.json
    "$BASIN" plan gz.json >/dev/null
}

@test "killed inside a compressed file, again and again: the same bytes" {
    cat >killed.json <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"},
 "input": [{"path": "killed.jsonl.zst", "id_key": "id"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 252},
 "score": {"tokens": true, "limit_tokens": 4000}, "output": {"path": "killed-base"}, "compute": {"span_tokens": 256}}
JSON
    "$BASIN" run killed.json --quiet || [ $? -eq 3 ]
    for k in 1 2 3; do
        touch begun
        "$BASIN" run killed.json --out killed --checkpoint-seconds 0.05 --quiet &
        pid=$!
        # until this attempt has saved something, or is through
        while kill -0 $pid 2>/dev/null && [ -z "$(find killed/.basin -name 'state-*' -newer begun 2>/dev/null)" ]; do
            sleep 0.02
        done
        kill -9 $pid 2>/dev/null || true
        wait $pid 2>/dev/null || true
    done
    "$BASIN" run killed.json --out killed --checkpoint-seconds 0.1 --quiet || [ $? -eq 3 ]
    diff <(published killed-base) <(published killed)
    # taken over in the middle of the file, and in the middle of its long line
    [ "$(jq -s 'map(.tokens_resumed) | max' killed/run/*.json)" -gt 0 ]
}

@test "invalid_utf8: replace goes through compressed files" {
    for n in all/torn.txt packed/torn.txt.gz packed/torn.txt.zst packed/torn.txt.lz4; do
        cat >replace.json <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"}, "input": [{"path": "$n", "invalid_utf8": "replace"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 60}, "output": {"path": "replace-${n##*.}"}}
JSON
        "$BASIN" run replace.json --quiet
        rows replace-${n##*.} >got
        [ "$n" = all/torn.txt ] && mv got want || cmp got want
    done
    grep -q '"num_chars":17,' want
}

@test "damaged files: the documents in front of the damage, then an error by name; the others go on" {
    mkdir damaged
    for n in gz zst lz4; do
        head -c $(($(stat -c %s packed/ids.jsonl.$n) / 2)) packed/ids.jsonl.$n >damaged/cut.jsonl.$n
        head -c 1000 packed/long.txt.$n >damaged/cut.txt.$n
        { cat packed/part3.txt.$n; echo garbage; } >damaged/tail.txt.$n
        cp all/part3.txt damaged/not.txt.$n
        cp packed/part3.txt.$n damaged/good.txt.$n
    done
    cat >damaged.json <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"},
 "input": [{"path": "damaged/*.txt.*"}, {"path": "damaged/*.jsonl.*", "ids_key": "token_ids"}],
 "cache": {"mode": "sink", "sink_tokens": 4, "window_tokens": 60}, "output": {"path": "damaged-out"}}
JSON
    run "$BASIN" run damaged.json --quiet
    [ "$status" -eq 3 ]
    [ -f damaged-out/_SUCCESS ]
    cat damaged-out/errors-* >errors
    [ "$(wc -l <errors)" -eq 12 ]
    [ "$(jq -r .code errors | sort -u)" = format ]
    [ "$(grep -c 'compressed byte [0-9]*: cut short' errors)" -eq 6 ]
    [ "$(grep -c '8 bytes of something else behind the last' errors)" -eq 3 ]
    [ "$(grep -c 'compressed byte 0: not ' errors)" -eq 3 ]
    "$BASIN" cat damaged-out | jq -r .source | sort | uniq -c >sources
    [ "$(grep -c good.txt sources)" -eq 3 ]
    [ "$(grep -cE 'cut\.txt|tail\.txt|not\.txt' sources)" -eq 0 ]
}

@test "a bomb fails, quickly and in little memory" {
    { printf '{"text": "'; head -c 300000000 /dev/zero | tr '\0' ' '; printf '"}\n'; } | zstd -q >bomb.jsonl.zst
    run timeout 60 "$BASIN" score "$MODEL" bomb.jsonl.zst
    [ "$status" -eq 3 ]
    [[ "$output" == *"more than 1000 to 1 is taken for a decompression bomb"* ]]
}

@test "score and tokenize take compressed files" {
    "$BASIN" tokenize "$MODEL" all/part3.txt | sed 's/part3.txt/X/' >want
    for n in gz zst lz4; do
        "$BASIN" tokenize "$MODEL" packed/part3.txt.$n | sed "s/part3.txt.$n/X/; s#packed/#all/#" | cmp - want
    done
    "$BASIN" score "$MODEL" packed/part3.txt.gz --quiet | jq .sum_logprob >sum
    "$BASIN" score "$MODEL" all/part3.txt --quiet | jq .sum_logprob | cmp - sum
    "$BASIN" tokenize "$MODEL" --decode packed/ids.jsonl.lz4 >decoded
    "$BASIN" tokenize "$MODEL" --decode all/ids.jsonl | cmp - decoded
}

@test "what is not read is refused by name" {
    cp all/part3.txt part3.txt.bz2
    run "$BASIN" score "$MODEL" part3.txt.bz2
    [ "$status" -ne 0 ]
    [[ "$output" == *".bz2 files are not read; decompress it, or make it one of .gz, .zst, .lz4"* ]]
}

@test "an OpenAI batch is refused with a hint, compressed or not" {
    printf '{"custom_id": "r%d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}}\n' 1 2 >batch.jsonl
    gzip -nk batch.jsonl
    for f in batch.jsonl batch.jsonl.gz; do
        run "$BASIN" score "$MODEL" $f
        [ "$status" -eq 3 ]
        [[ "$output" == *"a line of an OpenAI batch, input of a generate job"* ]]
    done
}

@test "standard input may be compressed" {
    "$BASIN" tokenize "$MODEL" - <all/long.txt >want-ids
    "$BASIN" score "$MODEL" - --sink 4 --window 60 <all/part3.txt >want-row
    for z in 'gzip -nc' 'zstd -qc' 'lz4 -qc'; do
        $z all/long.txt | "$BASIN" tokenize "$MODEL" | cmp - want-ids
        $z want-ids | "$BASIN" tokenize "$MODEL" --decode --no-special | cmp - all/long.txt
        $z all/part3.txt | "$BASIN" score "$MODEL" - --sink 4 --window 60 | cmp - want-row
    done
    gzip -nc all/long.txt | head -c 500 >torn
    run "$BASIN" tokenize "$MODEL" <torn
    [ "$status" -eq 3 ]
    [[ "$output" == *"compressed byte"* ]]
}
