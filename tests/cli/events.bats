#!/usr/bin/env bats
# `basin run --json`: every line is an event as docs/events.md has it, in the order it says.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
    sed -n '/^```json$/,/^```$/p' "$ROOT/docs/events.md" | grep -v '^```' > keys.json
    head -c 14000 "$TEXT" > a.txt
    tail -c 6000 "$TEXT" > b.txt
    cat > job.json <<JSON
{"version": 1, "job": "score", "model": "$MODEL", "input": ["a.txt", "b.txt"],
 "cache": {"mode": "sink", "window_tokens": 124}, "output": {"path": "out", "part_bytes": 10000}}
JSON
}

# events CODE ARGUMENT...: runs the job; every line must be as the table of keys says.
events() {
    local code=$1
    shift
    expect "$code" "$BASIN" run job.json --json --threads 1 "$@"
    jq -es --slurpfile keys keys.json --argjson code "$code" '
        def is($kind): if $kind == "int" then type == "number" and . == floor and . >= 0
            elif $kind | contains("|") then . as $v | any($kind / "|" | .[]; . as $k | $v | is($k))
            else type == $kind end;
        def fits($table): del(.event) as $have
            | ($table | with_entries(.key |= rtrimstr("?"))) as $types
            | all($have | to_entries[]; $types[.key] as $k | $k != null and (.value | is($k)))
            and all($table | keys[]; endswith("?") or . as $k | $have | has($k));
        . as $all
        | map($keys[0][.event] as $table | if $table != null and fits($table) then empty else . end)
        | if . != [] then "not as documented: \(.)" | halt_error else . end
        | ($all[0].event == "start") and ($all[-1].event == "end") and $all[-1].exit == $code
        and ([$all[] | select(.event == "start" or .event == "end")] | length == 2)
        and ($all[-1] | has("end") != has("code") and has("code") == has("message")
            and has("end") == has("success"))' > /dev/null <<< "$output" || {
        echo "$output"
        return 1
    }
}

of() { # of EVENT FILTER: it is true of the one event of this kind
    jq -es --arg kind "$1" "map(select(.event == \$kind)) | length == 1 and (.[0] | $2)" <<< "$output"
}

@test "the table of keys is JSON, and names every event" {
    jq -e 'keys == ["end", "info", "part_begin", "part_end", "progress", "start", "warning"]' keys.json
}

@test "a run that is done, and one with nothing to do" {
    events 0
    [[ ! -s err ]]
    jq -es 'map(.event) as $e
        | [$e[] | select(. == "part_begin" or . == "part_end")]
            == ["part_begin", "part_end", "part_begin", "part_end"]
        and any($e[]; . == "progress") and .[-1].end == "done" and .[-1].success
        and .[-1].documents == 2 and .[-1].tokens > 4000' <<< "$output"
    events 0
    of end '.tokens == 0 and .success'
}

@test "shares, failed documents, warnings" {
    printf 'good \xff bad' > b.txt
    events 3 --set cache.window_tokens=4000
    jq -es 'any(.[]; .event == "warning") and .[-1].failed == 1' <<< "$output"
    events 0 --out shared --shard 0/2
    of end '.parts_missing_elsewhere == 1 and (.success | not)'
    events 3 --out shared --shard 1/2
    of start '.rank == 1 and .ranks == 2 and .rank_from == "--shard"'
    of end '.parts_missing_elsewhere == 0 and .success'
}

@test "stolen parts are part of the work shown" {
    events 0 --shard 5/9 --steal
    jq -es 'map(select(.event == "progress")) | length > 0 and all(.[];
        .parts_done < .parts and .bytes_done <= .bytes_total and (.eta_seconds // 0) >= 0)' <<< "$output"
    of end '.documents == 2 and .tokens > 0'
}

@test "a run that is stopped, and ones that fail" {
    cp "$TEXT" a.txt
    events 75 --out cut --time-limit 1s
    jq -es '.[-1].end == "stopped" and (.[-1].success | not)' <<< "$output"
    events 66 --set input=none.txt
    of end '.code == "input" and (.message | contains("none.txt"))'
    mkdir full && echo mine > full/file
    events 73 --out full
    of end '.code == "output"'
    # Before a run starts there are no events.
    expect 65 "$BASIN" run job.json --json --set cache.mode=odd
    [[ -z "$output" && -s err ]]
    expect 64 "$BASIN" run job.json --json --shard 2/2
    [[ -z "$output" && -s err ]]
}
