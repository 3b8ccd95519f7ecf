#!/usr/bin/env bats
# `basin bench`: the figures hang together, and agree with what a run achieves.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
}

@test "limits and speeds for machines, and their sums" {
    expect 0 "$BASIN" bench "$MODEL" --threads 2 --seconds 0.1s --json
    [[ ! -s err ]]
    holds '[.peaks[] | [.dtype, .threads]] == [["f32",1],["f32",2],["bf16",1],["bf16",2],["int8",1],["int8",2]]
        and (.peaks | all(.flops_per_second > 1e8 and .read_bytes_per_second > 1e7))'
    holds '[.scoring[] | .sink_tokens + .window_tokens] == [256, 1024, 4096] and .dtype == "bf16"'
    # The demo model: 6 layers of width 192, MLP 576, 3 heads of 64 and 1 of keys, 2048 tokens.
    holds '.scoring | all(.stages.linear.flops_per_token
            == 2 * 6 * (192 * 192 * 2 + 192 * 64 * 2 + 3 * 192 * 576)
        and .stages.head.flops_per_token == 2 * 2048 * 192
        and .stages.attention.flops_per_token
            == 4 * 6 * 192 * (.sink_tokens + .window_tokens + 1))'
    holds '[.documents[] | .document_tokens] == [64, 512, 2048]
        and (.documents | all(.stages.attention.flops_per_token
            == 4 * 6 * 192 * ([.document_tokens, 1024] | min + 1) / 2 or .document_tokens > 1024))
        and ([.decoding[] | .streams] == [1, 8, 32])
        and (.decoding | all(.tokens_per_second > 1 and .share_of_bound > 0 and .read_bytes_per_step > 1e6))
        and .tokenizer_bytes_per_second > 1e5 and .row_tokens_per_second > 1e4'
    holds '.scoring | all(([.stages[].seconds] | add) - .seconds | fabs < 1e-6)'
    holds '.peaks[3].flops_per_second as $peak | .scoring | all(.share_of_peak > 0
        and (.share_of_peak - .flops_per_token * .tokens_per_second / $peak | fabs < 1e-9))'
}

@test "an f32 run on one thread" {
    expect 0 "$BASIN" bench "$MODEL" --threads 1 --seconds 0.1s --dtype f32 --json
    holds '(.peaks | length) == 3 and .dtype == "f32" and (.scoring | length) == 3'
}

@test "a table for people; the demo model is found" {
    cd "$ROOT"
    expect 0 "$BASIN" bench --threads 1 --seconds 0.1s
    cd "$BATS_TEST_TMPDIR"
    shows "f32 products, GFLOP/s"
    shows "scoring with examples/demo/model"
    shows "4 + 4092"
}

@test "without any model: the limits only, said on stderr" {
    cp "$BASIN" ./basin
    expect 0 ./basin bench --threads 1 --seconds 0.1s
    says "limits only"
    shows "memory read"
    [[ "$output" != *scoring* ]]
    expect 0 ./basin bench --threads 1 --seconds 0.1s --json
    holds '.model == null and (has("scoring") | not)'
}

@test "it agrees with run, as far as a shared machine allows" {
    cat > job.json <<JSON
{"version": 1, "job": "score", "model": "$MODEL", "input": "$TEXT", "cache": {"mode": "sink"},
 "score": {"limit_tokens": 40000}, "output": {"path": "out"}}
JSON
    expect 0 "$BASIN" run job.json --threads 1 --json
    jq -c 'select(.event == "end")' <<< "$output" > end
    expect 0 "$BASIN" bench "$MODEL" --threads 1 --seconds 2s --json
    jq -e --slurpfile run end '.scoring[1].tokens_per_second /
        ($run[0].tokens / $run[0].seconds) | . > 0.33 and . < 3' <<< "$output"
}

@test "what is refused" {
    expect 66 "$BASIN" bench nowhere --seconds 0.1s
    expect 64 "$BASIN" bench --seconds 0
    expect 64 "$BASIN" bench --threads 0
    expect 64 "$BASIN" bench --dtype int4
    expect 64 "$BASIN" bench a b
    expect 64 "$BASIN" bench a --shape stories260k
    says "one of them"
    expect 64 "$BASIN" bench --shape lama2-7b
    says 'did you mean "llama2-7b"? There are stories260k, '
    expect 64 "$BASIN" bench --devices cuda:0,1
    says "one device is measured at a time"
    expect 64 "$BASIN" bench --devices gpu
    says "must be cpu or cuda"
    if (( $(awk '/MemAvailable/ { print $2 }' /proc/meminfo) < 1000000000 )); then
        expect 71 "$BASIN" bench --shape llama3-405b
        says "take a smaller shape"
    fi
}

@test "made-up weights of a known model's dimensions, without a file" {
    expect 0 "$BASIN" bench --shape list
    [[ $(grep -c . <<< "$output") -ge 20 && $output == stories260k* && $output == *llama2-7b* ]]
    expect 0 "$BASIN" bench --shape stories260k --threads 1 --seconds 0.05s --json
    [[ ! -s err ]]
    holds '.shape == "stories260k" and .model == null and .parameters == 260032 and .dtype == "bf16"
        and .devices == "cpu" and .tokenizer_bytes_per_second == 0
        and (.scoring | all(.stages.head.flops_per_token == 2 * 512 * 64 and .tokens_per_second > 1))
        and ([.decoding[] | .streams] == [1, 8, 32])'
    expect 0 "$BASIN" bench --shape stories260k --threads 1 --seconds 0.05s --dtype f32
    shows "scoring with stories260k, made up: 260,032 parameters, f32"
    shows "32 streams"
}

@test "without a GPU it says what is missing" {
    if [[ -e /dev/nvidiactl ]]; then skip "there is a GPU"; fi
    expect 69 "$BASIN" bench --devices cuda --shape stories260k --seconds 0.05s
    expect 69 "$BASIN" bench --devices cuda:3 "$MODEL" --seconds 0.05s
}
