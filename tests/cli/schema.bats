#!/usr/bin/env bats
# `basin schema`: it is a schema, says what `basin validate` says, and its defaults are the true ones.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
}

@test "every key has a description; sections are closed" {
    expect 0 "$BASIN" schema
    [[ ! -s err ]]
    holds '.["$schema"] == "https://json-schema.org/draft/2020-12/schema"'
    holds '[.. | objects | select(has("properties")) | select(has("type")) |
        .additionalProperties == false and (.properties | all(has("description")))] | all'
    holds '.required == ["version", "job", "model", "input", "output"]'
    expect 64 "$BASIN" schema job.json
}

@test "the defaults of the schema are those of a run" {
    printf 'one\n' > a.txt
    printf '{"text": "two"}\n' > b.jsonl
    cat > job.json <<JSON
{"version": 1, "job": "score", "model": "$MODEL", "input": ["a.txt", "b.jsonl"],
 "output": {"path": "out"}}
JSON
    "$BASIN" run job.json --quiet
    "$BASIN" schema > schema.json
    jq -es '.[0] as $s | .[1].identity.manifest as $m
        | def agrees($properties; $have): [$properties | to_entries[] | select(.value | has("default"))
            | . as $p | $have | select(has($p.key)) | .[$p.key] == $p.value.default] |
            length > 0 and all;
        agrees($s["$defs"].cache.properties; $m.cache[0])
        and agrees($s["$defs"].input.else.properties; $m.input[0])
        and agrees($s["$defs"].input.else.properties; $m.input[1])
        and agrees($s.properties.score.properties; $m.score)
        and agrees($s.properties.output.properties; $m.output)
        and agrees($s.properties.compute.properties; $m.compute)' schema.json out/job.json
}

@test "schema and validator agree, on fixtures and on changed manifests" {
    local python
    for python in python3 /usr/bin/python3 none; do
        "$python" -c 'import jsonschema' 2> /dev/null && break
    done
    [[ $python != none ]] || skip "python3-jsonschema is not installed"
    mkdir work
    "$python" "$ROOT/tests/schema_agrees.py" "$BASIN" work
}
