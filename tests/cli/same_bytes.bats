#!/usr/bin/env bats
# The published files are the same bytes however the work was cut up.

setup_file() {
    . tests/cli/corpus.bash
    export BASIN TOP
    export C=$BATS_FILE_TMPDIR
    make_corpus "$C"
    make_manifest "$C/job.json" base
    "$BASIN" run "$C/job.json" --threads 1 --quiet || [ $? -eq 3 ]
}
setup() { . tests/cli/corpus.bash; cd "$C"; }

same() { diff <(published base) <(published "$1"); }

@test "the base run is whole: parts, a success file, two failed documents" {
    [ -f base/_SUCCESS ]
    [ "$(ls base/results-* | wc -l)" -ge 10 ]
    [ "$(cat base/errors-* | wc -l)" -eq 4 ] # two documents, two settings
    grep -q '"source":"books/torn.txt"' base/errors-*
    grep -q '"source":"lines/a.jsonl"' base/errors-*
}

@test "every document has one row per setting, in input order" {
    "$BASIN" cat base >rows
    [ "$(jq -s 'group_by([.source, .offset]) | map(length) | unique' -c rows)" = "[2]" ]
    [ "$(jq -s 'map([.source, .offset]) == (map([.source, .offset]) | sort)' rows)" = true ]
    [ "$(jq -s 'map(.setting) | unique' -c rows)" = '["s","w"]' ]
}

@test "token rows add up to the result rows" {
    "$BASIN" cat base --tokens >tokens
    jq -s -c 'group_by([.source, .offset, .setting]) | map([.[0].source, .[0].offset, .[0].setting,
        (map(.token_ids | length) | add), (map(.logprobs[1:] + [.logprobs[0] | values] | length) | add)]) | sort' tokens >a
    "$BASIN" cat base | jq -s -c 'map(select(.num_tokens > 0) | [.source, .offset, .setting, .num_tokens, .num_scored]) | sort' >b
    cmp a b
    # sums: to 1e-9 relative
    [ "$(jq -s 'group_by([.source, .offset, .setting]) | map([.[].logprobs[] | values] | add // 0) | add' tokens |
        awk '{ printf "%.6f", $1 }')" = "$("$BASIN" cat base | jq -s 'map(.sum_logprob) | add' | awk '{ printf "%.6f", $1 }')" ]
}

@test "2 threads" {
    "$BASIN" run job.json --out threads --threads 2 --quiet || [ $? -eq 3 ]
    same threads
}

@test "spans of 50, 300 and 10000 tokens" {
    for n in 50 300 10000; do
        "$BASIN" run job.json --out span$n --set compute.span_tokens=$n --quiet || [ $? -eq 3 ]
        same span$n
    done
}

@test "4 ranks at once" {
    for i in 0 1 2 3; do "$BASIN" run job.json --out ranks --shard $i/4 --threads 1 --quiet & done
    wait
    same ranks
}

@test "3 ranks, one of them killed, then 5" {
    "$BASIN" run job.json --out regroup --shard 0/3 --quiet || [ $? -eq 3 ]
    "$BASIN" run job.json --out regroup --shard 1/3 --quiet &
    sleep 0.7
    kill -9 $! 2>/dev/null || true
    wait || true
    for i in 4 3 2 1 0; do "$BASIN" run job.json --out regroup --shard $i/5 --quiet || [ $? -eq 3 ]; done
    same regroup
}

@test "one rank that steals what nobody holds" {
    "$BASIN" run job.json --out steal --shard 2/4 --steal --quiet || [ $? -eq 3 ]
    same steal
}

@test "rank from the environment" {
    for i in 0 1; do
        BASIN_RANK=$i BASIN_WORLD_SIZE=2 "$BASIN" run job.json --out env --quiet || [ $? -eq 3 ]
    done
    same env
}

@test "running again does nothing and says so" {
    before=$(ls -l --time-style=full-iso base/results-* base/_SUCCESS)
    run "$BASIN" run job.json --out base
    [ "$status" -eq 3 ]
    [ "$before" = "$(ls -l --time-style=full-iso base/results-* base/_SUCCESS)" ]
}

@test "each frame stands alone for python's and lz4's readers" {
    for f in base/results-* base/tokens-*; do
        lz4 -dc "$f" >frame
        [ "$(lz4 --list "$f" 2>/dev/null | awk 'NR == 2 { print $1 }')" = 1 ]
    done
}

@test "portable, avx2 and avx512 agree within the float32 budget" {
    "$BASIN" cat base | jq -c '[.source, .offset, .setting, .num_scored]' >want
    for isa in portable avx2 avx512; do
        BASIN_CPU=$isa "$BASIN" run job.json --out isa-$isa --set compute.dtype=f32 --quiet || [ $? -eq 3 ] || {
            BASIN_CPU=$isa "$BASIN" --version 2>&1 | grep -q "has no $isa" && continue
            false
        }
        "$BASIN" cat isa-$isa | jq -c '[.source, .offset, .setting, .num_scored]' | cmp - want
        "$BASIN" cat isa-$isa | jq -r '.sum_logprob' >sums-$isa
        paste sums-portable sums-$isa | awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 0.02 + 1e-5 * -$1) exit 1 }'
    done
}

@test "int8: the same bytes on 1 and 2 threads and in small spans; named in every row; near bf16" {
    for how in "1 2000" "2 2000" "2 70"; do
        set -- $how
        "$BASIN" run job.json --out "int8-$1-$2" --threads "$1" --set compute.dtype=int8 \
            --set compute.span_tokens="$2" --quiet || [ $? -eq 3 ]
    done
    diff <(published int8-1-2000) <(published int8-2-2000)
    diff <(published int8-1-2000) <(published int8-2-70)
    [ "$("$BASIN" cat int8-1-2000 | jq -s -c 'map(.dtype) | unique')" = '["int8"]' ]
    [ "$(jq -r '.identity.cache_dtype' int8-1-2000/job.json)" = bf16 ]
    paste <("$BASIN" cat base | jq -r '[.num_scored, .sum_logprob] | @tsv') <("$BASIN" cat int8-1-2000 | jq -r .sum_logprob) |
        awk '{ n += $1; d += $3 - $2 } END { d /= n; if (n < 1000 || d > 0.05 || d < -0.05 || d == 0) exit 1 }'
}
