#!/usr/bin/env bats
# The command line as a user meets it. BASIN names the binary; make passes it.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
}

SUBS="run score init validate plan status cat stats verify tokenize inspect bench schema help"

# A corpus of two short files and a manifest over it, in the working directory.
make_job() {
    head -c 14000 "$TEXT" > a.txt
    tail -c 6000 "$TEXT" > b.txt
    cat > job.json <<JSON
{
  "version": 1,
  "job": "score",
  "model": {"path": "$MODEL"},
  "input": [
    {"path": "a.txt"},
    {"path": "b.txt"}
  ],
  "cache": [
    {"name": "sink", "mode": "sink", "sink_tokens": 4, "window_tokens": 124},
    {"name": "window", "mode": "window", "window_tokens": 128}
  ],
  "score": {"tokens": true},
  "output": {"path": "out", "part_bytes": 10000}
}
JSON
}

@test "help lists every subcommand, on stdout" {
    expect 0 "$BASIN" help
    for s in $SUBS; do shows "  $s "; done
    [[ ! -s err ]]
    local list="$output"
    expect 0 "$BASIN" --help
    [[ "$output" == "$list" ]]
    expect 0 "$BASIN" -h
    [[ "$output" == "$list" ]]
}

@test "every subcommand has help with examples, and no option for tests in it" {
    for s in $SUBS; do
        expect 0 "$BASIN" "$s" -h
        shows "usage: basin $s"
        shows "examples:"
        local text="$output"
        expect 0 "$BASIN" "$s" operand --nonsense --help
        [[ "$output" == "$text" ]]
        expect 0 "$BASIN" help "$s"
        [[ "$output" == "$text" ]]
        [[ "$text" != *ignore-locks* && "$text" != *checkpoint* ]]
    done
}

@test "version names compiler, CPU, threads, CUDA and libraries" {
    expect 0 "$BASIN" --version
    for word in "basin " compiler features "in use: " threads cuda jansson lz4 xxhash pcre2; do
        shows "$word"
    done
    BASIN_CPU=portable expect 0 "$BASIN" --version
    shows "in use: portable (BASIN_CPU)"
    OMP_NUM_THREADS=1 expect 0 "$BASIN" --version
    shows "threads    1"
}

@test "no command, an unknown command: 64 with a suggestion" {
    expect 64 "$BASIN"
    expect 64 "$BASIN" tokenise
    says "did you mean tokenize?"
    expect 64 "$BASIN" xyzzy
    says "'basin help' lists them"
    expect 64 "$BASIN" help scoer
    says "did you mean score?"
}

@test "misuse of every subcommand: 64, usage on stderr, nothing on stdout" {
    for s in $SUBS; do
        expect 64 "$BASIN" "$s" --no-such-option
        says "no option --no-such-option"
        says "usage: basin $s"
        [[ -z "$output" ]]
    done
    for s in run validate plan status cat stats verify; do
        expect 64 "$BASIN" "$s"
        says "is missing"
        expect 64 "$BASIN" "$s" one two
        says 'unexpected argument "two"'
    done
    expect 64 "$BASIN" score
    says "MODEL is missing"
    expect 64 "$BASIN" score model
    says "FILE... is missing"
    expect 64 "$BASIN" tokenize
    says "MODEL is missing"
    expect 64 "$BASIN" init one two
    expect 64 "$BASIN" help one two
}

@test "options: suggestions, forgotten and unwanted values, ranges, words" {
    expect 64 "$BASIN" run job.json --overwriet
    says "did you mean --overwrite?"
    expect 64 "$BASIN" run job.json --out
    says "--out needs a value"
    expect 64 "$BASIN" run job.json --out --quiet
    says "--out needs a value"
    expect 64 "$BASIN" run job.json --out=
    says "its value is empty"
    expect 64 "$BASIN" run job.json --quiet=yes
    says "--quiet takes no value"
    expect 64 "$BASIN" run job.json --threads 0
    says "1..4096"
    expect 64 "$BASIN" run job.json --threads -1
    expect 64 "$BASIN" run job.json --time-limit soon
    says "not a duration"
    expect 64 "$BASIN" run job.json --time-limit 0
    says "above 0"
    expect 64 "$BASIN" score m f --mode snik
    says "did you mean sink?"
    expect 64 "$BASIN" score m f --bos --no-bos
    expect 64 "$BASIN" score m f --mode window --sink 4
    says "--sink"
    expect 64 "$BASIN" cat out --fields a,,b
    says "empty name"
}

@test "-- ends options; - is an operand" {
    expect 66 "$BASIN" validate -- --manifest
    says "--manifest: No such file"
    expect 64 "$BASIN" validate one -- --two
    says 'unexpected argument "--two"'
    expect 66 "$BASIN" tokenize nowhere -
    says "nowhere"
}

@test "shares and devices that cannot be: 64" {
    make_job
    expect 64 "$BASIN" run job.json --shard 2/2
    says "rank 2 of 2"
    expect 64 "$BASIN" run job.json --shard 1
    expect 64 "$BASIN" run job.json --devices gpu
    says "--devices gpu"
    expect 64 "$BASIN" plan job.json --shard 0/0
    [[ ! -e out ]]
}

@test "environment variables that cannot be: 64, by name" {
    make_job
    for v in BASIN_CPU OMP_NUM_THREADS SLURM_CPUS_PER_TASK SLURM_JOB_END_TIME; do
        expect 64 env "$v=many" "$BASIN" run job.json
        says "$v=many"
    done
    expect 64 env BASIN_RANK=1 "$BASIN" run job.json
    says "BASIN_WORLD_SIZE"
    expect 64 env BASIN_RANK=4 BASIN_WORLD_SIZE=4 "$BASIN" run job.json
    says "BASIN_RANK"
    expect 64 env SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_STEP=1 \
        SLURM_ARRAY_TASK_COUNT=3 "$BASIN" run job.json
    says "--shard"
    [[ ! -e out ]]
}

@test "init writes a manifest that is JSON, and never over a file" {
    expect 0 "$BASIN" init
    jq -e '.version == 1 and .job == "score"' <<< "$output"
    expect 0 "$BASIN" init new.json
    [[ "$(< new.json)" == "$output" || -s new.json ]]
    says "basin validate new.json"
    echo mine > new.json
    expect 73 "$BASIN" init new.json
    [[ "$(< new.json)" == mine ]]
    expect 73 "$BASIN" init no/such/dir.json
}

@test "the manifest of init is valid where the demo is" {
    cd "$ROOT"
    "$BASIN" init > "$BATS_TEST_TMPDIR/i.json"
    ln -s "$ROOT/examples" "$BATS_TEST_TMPDIR/examples"
    cd "$BATS_TEST_TMPDIR"
    expect 0 "$BASIN" validate i.json
    [[ -z "$output" ]]
}

@test "validate: every problem at once, FILE:LINE: \$.path: message" {
    make_job
    sed -i 's/"sink_tokens": 4/"sink_tokens": -4/; s/"window_tokens": 128/"windw_tokens": 128/;
            s/"part_bytes": 10000/"part_bytes": "big"/' job.json
    expect 65 "$BASIN" validate job.json
    shows 'job.json:10: $.cache[0].sink_tokens: '
    shows 'job.json:11: $.cache[1].windw_tokens: unknown key; did you mean "window_tokens"?'
    shows 'job.json:14: $.output.part_bytes: '
    says "3 errors"
    rm a.txt # what is missing is said as well
    expect 65 "$BASIN" validate job.json
    shows 'job.json:6: $.input[0].path: a.txt'
    says "4 errors"
    expect 65 "$BASIN" run job.json
    says 'job.json:11: $.cache[1].windw_tokens'
}

@test "validate: not JSON 65, no such manifest 66" {
    echo '{"version": 1,' > bad.json
    expect 65 "$BASIN" validate bad.json
    says "bad.json:"
    expect 66 "$BASIN" validate none.json
    expect 66 "$BASIN" run none.json
}

@test "validate opens model and inputs, and names each that is missing" {
    make_job
    expect 0 "$BASIN" validate job.json
    [[ -z "$output" ]]
    expect 66 "$BASIN" validate job.json --set model.path=nowhere
    shows 'job.json:4: $.model.path: nowhere'
    rm a.txt b.txt
    expect 66 "$BASIN" validate job.json
    shows 'job.json:6: $.input[0].path: a.txt'
    shows 'job.json:7: $.input[1].path: b.txt'
    # Beside other mistakes too, and of what --set makes of the manifest.
    expect 65 "$BASIN" validate job.json --set cache.0.mode=snik
    shows '$.cache[0].mode'
    shows 'job.json:6: $.input[0].path: a.txt'
    shows 'job.json:7: $.input[1].path: b.txt'
    expect 65 "$BASIN" validate job.json --set cache.0.mode=snik --set input=none.txt
    shows '$.input: none.txt'
    [[ "$output" != *a.txt* ]]
    expect 65 "$BASIN" validate job.json --set cache.0.mode=snik --set input.1.path=none.txt
    shows '$.input[0].path: a.txt'
    shows '$.input[1].path: none.txt'
}

@test "validate warns of a window beyond the trained context" {
    make_job
    expect 0 "$BASIN" validate job.json --set cache.0.window_tokens=4000
    shows 'job.json:10: $.cache[0].window_tokens: warning: '
}

@test "--set: bad assignments are usage, bad values are the manifest's" {
    make_job
    expect 64 "$BASIN" run job.json --set nonsense
    expect 65 "$BASIN" run job.json --set cache.0.sink_tokens=many
    says '$.cache[0].sink_tokens'
}

@test "run, status, cat, stats, verify" {
    make_job
    expect 0 "$BASIN" run job.json
    [[ -z "$output" ]]
    says "basin cat out"
    [[ -e out/_SUCCESS ]]
    expect 0 "$BASIN" status out
    shows "finished   yes"
    expect 0 "$BASIN" status out --json
    jq -e '.success and .failed == 0 and .published == .parts and .documents == 2' <<< "$output"
    expect 0 "$BASIN" status out --failed
    [[ -z "$output" ]]

    expect 0 "$BASIN" cat out
    [[ $(wc -l <<< "$output") -eq 4 ]]
    jq -es 'map(.id) == ["a.txt", "a.txt", "b.txt", "b.txt"]' <<< "$output"
    expect 0 "$BASIN" cat out --id b.txt --setting window
    jq -es 'length == 1 and .[0].setting == "window"' <<< "$output"
    expect 64 "$BASIN" cat out --setting windows
    says 'no cache setting "windows"; it has sink, window'
    expect 66 "$BASIN" cat out --id c.txt --setting window
    says 'no row of a document "c.txt"'
    expect 0 "$BASIN" cat out --fields id,setting,nothing --tsv
    [[ "${output%%$'\n'*}" == $'id\tsetting\tnothing' ]]
    [[ "$output" == *$'a.txt\tsink\t'* ]]
    expect 0 "$BASIN" cat out --tokens --id a.txt
    jq -es 'all(.logprobs | length > 0)' <<< "$output"
    expect 0 "$BASIN" cat out --follow # finished: nothing to wait for
    [[ $(wc -l <<< "$output") -eq 4 ]]

    expect 0 "$BASIN" stats out
    [[ $(wc -l <<< "$output") -eq 3 ]]
    expect 0 "$BASIN" stats out --json
    jq -es 'length == 2 and all(.ppl > 1 and .bits_per_byte > 0 and .documents == 2)' <<< "$output"
    expect 0 "$BASIN" verify out

    expect 0 "$BASIN" run job.json # again: nothing to do
    says "nothing to do"
    expect 0 "$BASIN" run job.json --quiet
    [[ ! -s err ]]
}

@test "a reader that leaves early is no error" {
    make_job
    "$BASIN" run job.json --quiet
    "$BASIN" cat out --tokens > all
    set -o pipefail
    [[ "$("$BASIN" cat out --tokens 2> err | head -n 1)" == "$(head -n 1 all)" ]]
    [[ "$("$BASIN" score "$MODEL" a.txt --tokens --quiet 2> err | head -c 5)" == '{"id"' ]]
    [[ "$("$BASIN" help 2> err | head -c 5)" == usage ]]
    [[ ! -s err ]]
}

@test "a full or closed stdout is 74" {
    make_job
    "$BASIN" run job.json --quiet
    for c in "cat out" "stats out" "help" "tokenize $MODEL a.txt"; do
        got=0
        # shellcheck disable=SC2086
        "$BASIN" $c > /dev/full 2> err || got=$?
        [[ $got -eq 74 ]]
        says "standard output"
        got=0
        # shellcheck disable=SC2086
        "$BASIN" $c >&- 2> err || got=$?
        [[ $got -eq 74 ]]
    done
}

@test "run --json: events, and the exit code in the last" {
    make_job
    expect 0 "$BASIN" run job.json --json
    [[ ! -s err ]]
    jq -es '.[0].event == "start" and .[-1].event == "end" and .[-1].exit == 0' <<< "$output"
    jq -es 'map(.event) | contains(["part_begin"]) and contains(["part_end"])' <<< "$output"
    expect 73 "$BASIN" run job.json --json --set score.tokens=false
    jq -es '.[-1].event == "end" and .[-1].exit == 73 and (.[-1].message | length > 0)' \
        <<< "$output"
}

@test "another job in the output directory: 73, and --overwrite" {
    make_job
    expect 0 "$BASIN" run job.json --quiet
    expect 73 "$BASIN" run job.json --set cache.0.window_tokens=60
    says "window_tokens"
    expect 0 "$BASIN" run job.json --set cache.0.window_tokens=60 --overwrite
    mkdir foreign && echo mine > foreign/file
    expect 73 "$BASIN" run job.json --out foreign
    [[ "$(< foreign/file)" == mine ]]
    mkdir theirs && echo '{"jobs": 3}' > theirs/job.json
    expect 73 "$BASIN" run job.json --out theirs
    echo 'not JSON' > theirs/job.json
    expect 73 "$BASIN" run job.json --out theirs --overwrite
    [[ "$(< theirs/job.json)" == "not JSON" ]]
    expect 73 "$BASIN" run job.json --out a.txt/sub
}

@test "an end of the Slurm job that is over stops what is left, one far away nothing" {
    make_job
    SLURM_JOB_END_TIME=1 expect 75 "$BASIN" run job.json
    SLURM_JOB_END_TIME=4611686018427387903 expect 0 "$BASIN" run job.json --quiet
    SLURM_JOB_END_TIME=1 expect 0 "$BASIN" run job.json # there is nothing to stop
    says "nothing to do"
}

@test "a job goes on with another span and where its results were moved to" {
    make_job
    expect 0 "$BASIN" run job.json --quiet
    mv out moved
    expect 0 "$BASIN" run job.json --out moved --set compute.span_tokens=64
    says "nothing to do"
}

@test "--out is relative to the working directory, the manifest's path to the manifest" {
    make_job
    mkdir elsewhere
    cd elsewhere
    expect 0 "$BASIN" run ../job.json --out here --quiet
    [[ -e here/_SUCCESS ]]
    expect 0 "$BASIN" run ../job.json --quiet
    [[ -e ../out/_SUCCESS ]]
    cmp <("$BASIN" cat here) <("$BASIN" cat ../out)
}

@test "missing inputs 66, bad model 65, cuda without CUDA 69" {
    make_job
    expect 66 "$BASIN" run job.json --set input=none.txt
    says "none.txt"
    expect 66 "$BASIN" score "$MODEL" none.txt
    expect 66 "$BASIN" run job.json --set model.path=nowhere
    mkdir broken && cp "$MODEL"/* broken && echo '{' > broken/config.json
    expect 65 "$BASIN" run job.json --set model.path=broken
    says "config.json"
    if "$BASIN" --version | grep -q '^cuda *no'; then
        expect 69 "$BASIN" run job.json --devices cuda
        says "CUDA"
        expect 69 "$BASIN" score "$MODEL" a.txt --devices cuda
    elif "$BASIN" --version | grep -q '^cuda *yes, no GPU'; then
        expect 69 "$BASIN" run job.json --devices cuda
        says "--devices cpu"
    fi
    if ! "$BASIN" --version | grep -q '^cuda *yes, [0-9]'; then
        expect 69 "$BASIN" score "$MODEL" a.txt --devices cuda:3
        says "--devices cuda:3"
    fi
    if ! "$BASIN" --version | grep -q '^cuda *yes, [0-9]'; then
        for list in cuda:0,1 cpu,cuda; do
            expect 69 "$BASIN" run job.json --devices $list
            says "--devices $list"
        done
    fi
    expect 64 "$BASIN" run job.json --devices cpu,cpu
    says "cpu is named twice"
    expect 64 "$BASIN" run job.json --devices cpu,cuda:1,2,1
    says "cuda:1 is named twice"
    [[ ! -e out/_SUCCESS ]]
}

@test "stopped by the time limit: 75, and the same command goes on to the same bytes" {
    make_job
    head -c 150000 "$TEXT" > a.txt
    expect 75 "$BASIN" run job.json --out cut --time-limit 1s
    says "stopped by the time limit"
    says "run the same command again"
    expect 0 "$BASIN" status cut
    shows "finished   no"
    expect 0 "$BASIN" verify cut
    expect 0 "$BASIN" run job.json --out cut
    expect 0 "$BASIN" run job.json --out whole
    for f in whole/*.lz4; do cmp "$f" "cut/$(basename "$f")"; done
}

@test "signals stop a run with 75, and it goes on" {
    make_job
    cp "$TEXT" a.txt
    for signal in TERM INT USR1; do
        "$BASIN" run job.json --out out-$signal 2> err &
        pid=$!
        sleep 0.7
        kill -$signal $pid
        got=0
        wait $pid || got=$?
        [[ $got -eq 75 ]]
        says "SIG$signal"
    done
}

@test "some documents fail: 3, named by status; under --quiet it is said" {
    make_job
    printf 'good \xff bad' > b.txt
    expect 3 "$BASIN" run job.json --quiet
    says "failed"
    expect 0 "$BASIN" status out --failed
    jq -es 'all(.id == "b.txt" and .code == "format")' <<< "$output"
    expect 3 "$BASIN" run job.json # it stays so until it is retried
    tail -c 10 "$TEXT" > b.txt # the same size: the same plan
    expect 0 "$BASIN" run job.json --retry-failed
}

@test "standard input is not stolen: each process has its own" {
    make_job
    expect 0 "$BASIN" run job.json --set 'input=["-"]' --shard 1/2 --steal < a.txt
    says "1 part of other ranks still missing"
    expect 0 "$BASIN" run job.json --set 'input=["-"]' --shard 0/2 --steal < b.txt
    expect 0 "$BASIN" cat out --fields num_bytes
    shows '{"num_bytes":6000}'
}

@test "failures in stolen parts count: 3" {
    make_job
    printf 'good \xff bad' > b.txt
    expect 0 "$BASIN" run job.json --shard 5/9
    expect 3 "$BASIN" run job.json --shard 5/9 --steal
    says "2 documents, 1 failed"
}

@test "damaged results: verify 74 and names the file" {
    make_job
    expect 0 "$BASIN" run job.json --quiet
    file=$(ls out/results-*.lz4 | head -n 1)
    chmod u+w "$file"
    printf '\x00' | dd of="$file" bs=1 seek=40 conv=notrunc 2> /dev/null
    expect 74 "$BASIN" verify out
    shows "$(basename "$file")"
    rm "$file"
    expect 0 "$BASIN" status out
    shows "finished   no"
    expect 0 "$BASIN" run job.json --quiet
    expect 0 "$BASIN" verify out
    rm "$(ls out/tokens-*.lz4 | head -n 1)" # as told of a damaged one
    expect 0 "$BASIN" run job.json --quiet
    expect 0 "$BASIN" verify out
    expect 66 "$BASIN" verify nowhere
    expect 66 "$BASIN" status nowhere
    expect 66 "$BASIN" cat nowhere
    expect 66 "$BASIN" stats nowhere
}

@test "shares: each does its own, the last finds all there" {
    make_job
    expect 0 "$BASIN" run job.json --shard 0/2
    says "rank 0 of 2"
    says "still missing"
    BASIN_RANK=1 BASIN_WORLD_SIZE=2 expect 0 "$BASIN" run job.json
    says "(BASIN_RANK)"
    [[ -e out/_SUCCESS ]]
}

@test "score gives the rows of run, without a manifest" {
    make_job
    expect 0 "$BASIN" run job.json --quiet
    "$BASIN" cat out --setting sink > want
    expect 0 "$BASIN" score "$MODEL" a.txt b.txt --sink 4 --window 124 --quiet
    [[ "$output" == "$(< want)" ]]
    "$BASIN" cat out --setting sink --tokens --id a.txt | jq -c .logprobs > want
    "$BASIN" score "$MODEL" a.txt --window 124 --tokens --quiet | jq -c .logprobs | cmp - want
    "$BASIN" score "$MODEL" - --window 124 --quiet < a.txt | jq -c .sum_logprob > from_stdin
    "$BASIN" score "$MODEL" a.txt --window 124 --quiet | jq -c .sum_logprob | cmp - from_stdin
    expect 0 "$BASIN" score "$MODEL" a.txt --limit 100 --no-bos --dtype f32
    jq -e '.num_tokens == 100 and .truncated and .dtype == "f32" and (.bos | not)' <<< "$output"
}

@test "score names what failed on stderr and goes on: 3" {
    printf 'bad \xff' > bad.txt
    printf 'good enough' > good.txt
    expect 3 "$BASIN" score "$MODEL" bad.txt good.txt --quiet
    jq -es 'map(.id) == ["good.txt"]' <<< "$output"
    says "bad.txt: byte 4"
}

@test "plan: numbers for people and machines, nothing written" {
    make_job
    expect 0 "$BASIN" plan job.json
    shows "parts     "
    shows "memory    "
    expect 0 "$BASIN" plan job.json --shard 0/2 --json
    jq -e '.parts == 2 and .parts_mine == 1 and .parts_published == 0 and .tokens > 1000' \
        <<< "$output"
    expect 0 "$BASIN" plan job.json --parts
    [[ "${output%%$'\n'*}" == part$'\t'rank$'\t'bytes* && $(wc -l <<< "$output") -eq 3 ]]
    expect 64 "$BASIN" plan job.json --parts --json
    [[ ! -e out ]]
    "$BASIN" run job.json --quiet
    expect 0 "$BASIN" plan job.json --json
    jq -e '.parts_published == 2 and .bytes_left == 0' <<< "$output"
    expect 73 "$BASIN" plan job.json --set cache.0.sink_tokens=2
    says 'holds another job: $.manifest.cache[0].sink_tokens is 4 there and 2 here'
}

@test "tokenize and back" {
    head -c 20000 "$TEXT" > a.txt
    expect 0 "$BASIN" tokenize "$MODEL" a.txt
    jq -e '.id == "a.txt" and .token_ids[0] == 0 and (.token_ids | length > 1000)' <<< "$output"
    "$BASIN" tokenize "$MODEL" a.txt --no-special > ids.jsonl
    "$BASIN" tokenize "$MODEL" ids.jsonl --decode | cmp - a.txt
    jq -r '.token_ids | map(tostring) | join(" ")' ids.jsonl |
        "$BASIN" tokenize "$MODEL" --decode - | cmp - a.txt
    "$BASIN" tokenize "$MODEL" < a.txt | jq -c .token_ids > from_stdin
    "$BASIN" tokenize "$MODEL" a.txt | jq -c .token_ids | cmp - from_stdin
    printf '{"id":"x","text":"one"}\n{"no":1}\n{"text":"two"}\n' > d.jsonl
    expect 3 "$BASIN" tokenize "$MODEL" d.jsonl
    jq -es 'map(.id) == ["x", "d.jsonl#33"]' <<< "$output"
    says "d.jsonl: byte 24"
    echo 1 2 999999 > n.txt
    expect 3 "$BASIN" tokenize "$MODEL" n.txt --decode
    says "999999"
    expect 66 "$BASIN" tokenize "$MODEL" none.txt
    expect 66 "$BASIN" tokenize nowhere a.txt
}

@test "tokenized lines are an input: the same sums as the text" {
    make_job
    "$BASIN" tokenize "$MODEL" a.txt > ids.jsonl
    "$BASIN" score "$MODEL" ids.jsonl --ids-key token_ids --quiet | jq -c .sum_logprob > from_ids
    "$BASIN" score "$MODEL" a.txt --quiet | jq -c .sum_logprob | cmp - from_ids
}

@test "file names cannot steer the terminal" {
    expect 66 "$BASIN" validate $'evil\e[31m.json'
    says 'evil?[31m.json'
}
