#!/usr/bin/env bats
# Generate jobs on simulated GPUs: the program with kernels/cuda/ and tests/simt/ in it (built where there is a C++
# compiler). The same bytes for any number of streams and after a kill; greedy ids as on the CPU.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
    export C=$BATS_FILE_TMPDIR SIMT=$(dirname "$BASIN")/tests/basin_simt
    [[ -x $SIMT ]] || skip "no simulated GPUs"
    cd "$C"
    for i in 1 2; do tail -c +$((i * 40000)) "$TEXT" | head -c $((i * 40)) | iconv -c -t utf-8 > $i.txt; done
    cat > job.json <<JSON
{"version": 1, "job": "generate", "model": "$MODEL", "input": ["*.txt"], "compute": {"dtype": "f32"},
 "cache": {"sink_tokens": 4, "window_tokens": 12},
 "generate": {"max_new_tokens": 10, "temperature": 0.8, "top_p": 0.9, "seed": 5, "token_ids": true, "logprobs": 2},
 "output": {"path": "base"}}
JSON
    "$SIMT" run job.json --devices cuda:1 --quiet --set generate.streams=2
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$C"
}

same() { diff <(cd base && sha256sum results-* _SUCCESS) <(cd "$1" && sha256sum results-* _SUCCESS); }

@test "one stream or two: the same bytes; the rows name the device" {
    "$SIMT" run job.json --devices cuda:1 --out one --set generate.streams=1 --quiet
    same one
    [[ $("$BASIN" cat base | wc -l) -eq 2 ]]
    [[ $("$BASIN" cat base | jq -r .device | sort -u) == cuda ]]
}

@test "killed in the middle, it ends with the same bytes" {
    "$SIMT" run job.json --devices cuda:1 --out killed --set generate.streams=2 --checkpoint-seconds 0.02 --quiet &
    pid=$!
    for i in $(seq 100); do [[ -s $(echo killed/.basin/work/*/*/commits) ]] && break; sleep 0.05; done
    sleep 0.3
    kill -9 $pid 2> /dev/null || true
    wait $pid 2> /dev/null || true
    "$SIMT" run job.json --devices cuda:1 --out killed --quiet
    same killed
}

@test "greedy ids are the CPU's" {
    jq '.input = ["1.txt"] | .generate = {max_new_tokens: 10, token_ids: true}' job.json > greedy.json
    "$SIMT" run greedy.json --devices cuda:1 --out greedy --quiet
    "$BASIN" run greedy.json --devices cpu --out cpu --quiet
    diff <("$BASIN" cat greedy | jq -c .token_ids) <("$BASIN" cat cpu | jq -c .token_ids)
}
