# A small corpus of every input kind, and helpers, for the scripts beside this file. Sourced by setup_file.
# BASIN is the program under test.

BASIN=$(realpath "${BASIN:-build/release/basin}")
TOP=$PWD
MODEL=$TOP/examples/demo/model
BOOK=$TOP/examples/demo/persuasion.txt

# make_corpus DIR: texts of uneven size, JSONL with and without ids, empty and one-character documents,
# token ids, a document that is not UTF-8 and a line that is not JSON.
make_corpus() {
    local d=$1 i
    mkdir -p "$d/books" "$d/lines"
    head -c 20000 "$BOOK" >"$d/books/long.txt"
    for i in 1 2 3 4 5 6 7 8 9; do
        tail -c +$((i * 9000)) "$BOOK" | head -c $((i * i * 37)) >"$d/books/part$i.txt"
    done
    : >"$d/books/empty.txt"
    printf 'x' >"$d/books/one.txt"
    printf 'fine until \xff here' >"$d/books/torn.txt"
    # awk, not python: what ships tests on a bare machine
    tail -c +100000 "$BOOK" | head -c 15000 | tr -d '\r' | awk -v RS='\n\n+' '
        { gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); gsub(/\n/, "\\n"); gsub(/\t/, "\\t") }
        NR % 3 == 0 { printf "{\"text\": \"%s\"}\n", $0; next }
        NR % 3 == 1 { printf "{\"id\": \"p%d\", \"text\": \"%s\"}\n", NR, $0; next }
        { printf "{\"text\": \"%s\", \"n\": [1, {\"a\": null}], \"id\": %d}\n", $0, NR }' >"$d/lines/a.jsonl"
    printf '{"text": ""}\n\nnot json\n{"text": "after the bad line", "id": "last"}\n' >>"$d/lines/a.jsonl"
    awk 'BEGIN { for (d = 0; d < 9; d++) { printf "{\"token_ids\": ["; n = d * 60 + (d > 0)
        for (i = 0; i < n; i++) printf "%s%d", i ? "," : "", (i * 131 + d * 17) % 2048
        print "]}" } }' >"$d/ids.jsonl"
}

# make_manifest FILE OUT [JSON members]: scores the corpus beside it under two settings.
make_manifest() {
    cat >"$1" <<JSON
{"version": 1, "job": "score", "model": {"path": "$MODEL"},
 "input": [{"path": "books/*.txt"}, {"path": "lines/*.jsonl"}, {"path": "ids.jsonl", "ids_key": "token_ids"}],
 "cache": [{"name": "s", "mode": "sink", "sink_tokens": 4, "window_tokens": 60},
           {"name": "w", "mode": "window", "window_tokens": 64}],
 "score": {"tokens": true}, "output": {"path": "$2", "part_bytes": 3000}}
JSON
}

# published DIR: one line per published file, its hash first.
published() { (cd "$1" && sha256sum results-* tokens-* errors-* _SUCCESS); }
