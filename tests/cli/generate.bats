#!/usr/bin/env bats
# Generate jobs: the same bytes however they are cut up and after kills; chats, batches, stop strings;
# what is wrong is named and does no harm to others.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
    export C=$BATS_FILE_TMPDIR
    cd "$C"
    mkdir books
    # Prompts of unequal lengths: one token and BOS, some of hundreds of tokens, past the window.
    for i in 1 2 3 4 5 6 7 8 9; do
        tail -c +$((i * 40000)) "$TEXT" | head -c $((i * i * 40)) | iconv -c -t utf-8 > books/$i.txt
    done
    printf 'A' > books/a.txt
    tail -c +5000 "$TEXT" | head -c 60000 | fold -w 90 -s | iconv -c -t utf-8 |
        jq -Rc '{id: "l\(input_line_number)", text: .}' | head -n 60 > lines.jsonl
    cat > job.json <<JSON
{"version": 1, "job": "generate", "model": "$MODEL", "input": ["books/*.txt", "lines.jsonl"],
 "cache": [{"name": "s", "sink_tokens": 4, "window_tokens": 28}, {"name": "d", "prefill": "dense", "window_tokens": 60}],
 "generate": {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.95, "seed": 5, "stop": ["Anne", "\n\n"],
              "token_ids": true, "logprobs": 2, "tokens": true},
 "output": {"path": "base", "part_bytes": 2000}}
JSON
    "$BASIN" run job.json --threads 1 --quiet --set generate.streams=8
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$C"
}

published() { (cd "$1" && sha256sum results-* tokens-* errors-* _SUCCESS 2> /dev/null); }
same() { diff <(published base) <(published "$1"); }
# job NAME INPUT GENERATE: a small job's manifest.
job() {
    cat > "$1.json" <<JSON
{"version": 1, "job": "generate", "model": "$MODEL", "input": $2,
 "cache": {"sink_tokens": 4, "window_tokens": 124}, "generate": $3, "output": {"path": "out-$1"}}
JSON
}

@test "the base run is whole, in input order, within its limits" {
    [[ -f base/_SUCCESS ]]
    [[ $(ls base/results-* | wc -l) -ge 4 ]]
    expect 0 "$BASIN" cat base
    [[ $(wc -l <<< "$output") -eq 140 ]]
    [[ $(jq -s 'map([.source, .offset]) == (map([.source, .offset]) | sort)' <<< "$output") == true ]]
    [[ $(jq -s 'all(.completion_tokens <= 40 and (.token_ids | length) == .completion_tokens and
        (.logprobs | length) == .completion_tokens and (.top_logprobs | map(length) | unique) == [2] and
        (.finish_reason == "length") == (.completion_tokens == 40 and (.finish_reason != "stop")))' <<< "$output") == true ]]
    # Both ends occur, and no stop string is in a text.
    [[ $(jq -sc 'map(.finish_reason) | unique' <<< "$output") == '["length","stop"]' ]]
    [[ $(jq -s 'map(select(.text | contains("Anne") or contains("\n\n"))) | length' <<< "$output") -eq 0 ]]
    # Sums are those of the log-probabilities.
    [[ $(jq -s 'all(((.logprobs | add) - .sum_logprob | fabs) < 1e-9)' <<< "$output") == true ]]
}

@test "token rows hold what result rows hold" {
    "$BASIN" cat base --tokens | jq -s -c 'group_by([.source, .offset, .setting]) | map([.[0].source, .[0].offset, .[0].setting,
        (map(.token_ids) | add), (map(.logprobs) | add), (map(.text) | add)]) | sort[]' > a
    "$BASIN" cat base | jq -s -c 'map([.source, .offset, .setting, .token_ids, .logprobs, .text]) | sort[]' > b
    cmp a b
}

@test "1, 3 and 64 streams; 2 threads; small spans; another number of ranks" {
    for n in 1 3 64; do
        "$BASIN" run job.json --out streams$n --threads 1 --set generate.streams=$n --quiet
        same streams$n
    done
    "$BASIN" run job.json --out threads --threads 2 --quiet
    same threads
    "$BASIN" run job.json --out spans --set compute.span_tokens=50 --quiet
    same spans
    for i in 0 1 2; do "$BASIN" run job.json --out ranks --shard $i/3 --quiet; done
    same ranks
}

@test "killed again and again, it ends with the same bytes" {
    RANDOM=3
    for k in 1 2 3 4 5 6; do
        "$BASIN" run job.json --out killed --set generate.streams=$((k * 3)) --checkpoint-seconds 0.02 --quiet &
        pid=$!
        sleep 0.$(printf %02d $((RANDOM % 60 + 15)))
        kill -9 $pid 2> /dev/null || true
        wait $pid 2> /dev/null || true
    done
    "$BASIN" run job.json --out killed --quiet
    same killed
}

@test "a signal: exit 75, saved in the middle of answers, taken over" {
    job long '["books/3.txt", "books/4.txt"]' '{"max_new_tokens": 3000, "tokens": true, "ignore_eos": true}'
    "$BASIN" run long.json --out long-base --quiet
    "$BASIN" run long.json --quiet &
    pid=$!
    for i in $(seq 100); do [[ -s $(echo out-long/.basin/work/*/*/commits) ]] && break; sleep 0.05; done
    sleep 0.4
    kill -TERM $pid
    code=0
    wait $pid || code=$?
    [[ $code -eq 75 || $code -eq 0 ]]
    "$BASIN" run long.json --quiet
    diff <(published long-base) <(published out-long)
    if [[ $code -eq 75 ]]; then
        last=$(ls out-long/run/*.json | tail -n 1)
        [[ $(jq .tokens_resumed "$last") -gt 0 ]]
    fi
}

@test "long answers have their text in token rows, which can be followed while they are written" {
    job endless '"books/2.txt"' '{"max_new_tokens": 20000, "ignore_eos": true, "temperature": 1, "seed": 1}'
    "$BASIN" run endless.json --quiet &
    pid=$!
    for i in $(seq 600); do [[ -f out-endless/job.json ]] && break; sleep 0.05; done
    "$BASIN" cat out-endless --tokens --follow > followed
    wait $pid
    "$BASIN" cat out-endless --tokens > rows
    cmp followed rows
    [[ $(jq -sc 'map(.first)' rows) == '[0,4096,8192,12288,16384]' ]]
    [[ $(jq -s 'map(.token_ids | length) | add' rows) -eq 20000 ]]
    expect 0 "$BASIN" cat out-endless
    holds '.text == null and .completion_tokens == 20000 and .finish_reason == "length"'
}

@test "long answers beside each other: what waits is put aside, and survives kills" {
    job wide '["books/1.txt", "books/2.txt"]' \
        '{"max_new_tokens": 6000, "tokens": true, "ignore_eos": true, "temperature": 0.9, "seed": 2}'
    "$BASIN" run wide.json --out wide-one --set generate.streams=1 --quiet
    "$BASIN" run wide.json --quiet
    diff <(published wide-one) <(published out-wide)
    "$BASIN" run wide.json --out wide-killed --checkpoint-seconds 0.05 --quiet &
    pid=$!
    # Until something was put aside and a checkpoint knows of it.
    for i in $(seq 1200); do
        grep -q '"spool":' wide-killed/.basin/work/00000/*/commits 2> /dev/null && break
        sleep 0.05
    done
    kill -9 $pid 2> /dev/null || true
    wait $pid 2> /dev/null || true
    "$BASIN" run wide.json --out wide-killed --quiet
    diff <(published wide-one) <(published wide-killed)
    [[ $(jq -s 'map(.tokens_resumed) | max' wide-killed/run/*.json) -gt 0 ]]
}

# until_line TEXT FILES: it is in one of them (a pattern: they need not be there yet).
until_line() { for i in $(seq 2400); do grep -qsF -- "$1" $2 && return; sleep 0.05; done; return 1; }

@test "the last checkpoint stands until there is a better one: after a kill, and when a stop has no time" {
    for i in 1500:0 8000:1 8000:2; do
        printf '{"custom_id": "c%s", "body": {"prompt": "Anne %s", "max_tokens": %s}}\n' "${i#*:}" "${i#*:}" "${i%:*}"
    done > bodies.jsonl
    job stand '"bodies.jsonl"' '{"max_new_tokens": 8000, "ignore_eos": true, "temperature": 0.9, "seed": 4}'
    "$BASIN" run stand.json --out stand-whole --quiet
    "$BASIN" run stand.json --checkpoint-seconds 0.05 --quiet &
    pid=$!
    until_line '"state":' 'out-stand/.basin/work/00000/*/commits'
    kill -TERM $pid
    code=0
    wait $pid || code=$?
    [[ $code -eq 75 ]]
    [[ $("$BASIN" status out-stand --json | jq .documents) -eq 0 ]]
    # The first answer is done, those behind it are in the checkpoint alone: neither a commit of what is done nor a
    # stop without time may hide it.
    for signal in TERM KILL; do
        "$BASIN" run stand.json --stop-save-seconds 0.000000001 --json > events 2> said &
        pid=$!
        until_line '"documents":1' events
        sleep 1.2 # a commit of what is done would have come
        kill -$signal $pid
        code=0
        wait $pid || code=$?
        if [[ $signal == TERM ]]; then
            [[ $code -eq 75 ]]
            grep -q 'no time to write a checkpoint: the next run goes on from the one before' events
        fi
    done
    "$BASIN" run stand.json --quiet
    diff <(published stand-whole) <(published out-stand)
    # The runs in their order: all that took it up took up the same.
    jq -sc 'map(.tokens_resumed // 0)' out-stand/run/*.json
    [[ $(jq -s 'map(.tokens_resumed // 0) | .[0] == 0 and .[1] > 0 and .[-1] == .[1]' out-stand/run/*.json) == true ]]
}

@test "plan, status, stats, init: of generate jobs" {
    expect 0 "$BASIN" plan job.json --set generate.streams=3 --out elsewhere --json
    holds '.streams == 3 and .documents >= 60 and .tokens_most >= 4800 and .memory_bytes > .stream_bytes'
    expect 0 "$BASIN" plan job.json --out elsewhere
    shows "streams   "
    expect 0 "$BASIN" status base --json
    [[ $(jq .tokens <<< "$output") -eq $("$BASIN" cat base | jq -s 'map(.completion_tokens) | add') ]]
    expect 0 "$BASIN" stats base --json
    [[ $(jq -sc 'map([.setting, .documents])' <<< "$output") == '[["s",70],["d",70]]' ]]
    [[ $(jq -s 'map(.completion_tokens) | add' <<< "$output") -eq $("$BASIN" cat base | jq -s 'map(.completion_tokens) | add') ]]
    expect 0 "$BASIN" init --job generate
    holds '.job == "generate" and .generate.max_new_tokens == 200'
}

@test "without a manifest: the same rows" {
    expect 0 "$BASIN" generate "$MODEL" books/1.txt --sink 4 --window 28 --max-new-tokens 12 --token-ids
    jq -c .token_ids <<< "$output" > direct
    job one '"books/1.txt"' '{"max_new_tokens": 12, "token_ids": true}'
    "$BASIN" run one.json --set cache.window_tokens=28 --quiet
    cmp direct <("$BASIN" cat out-one | jq -c .token_ids)
    expect 0 "$BASIN" generate "$MODEL" - --max-new-tokens 3 --stop Anne --temperature 0.5 < books/1.txt
    holds '.completion_tokens <= 3 and .source == "-"'
    expect 64 "$BASIN" generate "$MODEL" books/1.txt --temperature nan
    says "--temperature: must be a number"
    expect 64 "$BASIN" generate "$MODEL" books/1.txt --temperature 1 --top-p 0
    says "--top-p: 0 is out of range"
    expect 64 "$BASIN" generate "$MODEL" books/1.txt --stop ""
}

@test "chats: by template, on one cache, in OpenAI's format" {
    cat > chats.jsonl <<'JSONL'
{"id": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Who is "}, {"type": "text", "text": "Anne?"}]}]}
{"id": "t", "messages": ["Good day.", "And then?", "Why?"]}
{"id": "p", "text": "Be brief.\n\nWho is Anne?\n\n"}
{"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}}
{"custom_id": "c2", "method": "POST", "url": "/v1/completions", "body": {"model": "x", "prompt": "It was", "max_tokens": 7, "logprobs": 0}}
{"custom_id": "c3", "body": {"prompt": "It was", "temperature": -1}}
{"custom_id": "c4", "body": {"prompt": "It was"}
{"custom_id": "c5", "body": {"prompt": [5, 6, 7], "max_tokens": 3, "stop": null}}
{"id": "tool", "messages": [{"role": "tool", "content": "x"}]}
{"id": "empty", "messages": []}
{"id": "last", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
JSONL
    job chats '"chats.jsonl"' '{"max_new_tokens": 12, "template": "plain", "add_bos": false, "ignore_eos": true}'
    expect 3 "$BASIN" run chats.json --quiet
    expect 0 "$BASIN" cat out-chats
    [[ $(jq -sc 'map(.id)' <<< "$output") == '["m","t","p","c1","c2","c5"]' ]]
    # A rendered chat is the text that it is rendered to.
    [[ $(jq -sc '.[0].text == .[2].text and .[0].text_xxh128 == .[2].text_xxh128' <<< "$output") == true ]]
    [[ $(jq -sc '.[1].turns | map(.completion_tokens)' <<< "$output") == '[12,12,12]' ]]
    [[ $(jq -sc '.[1] | .completion_tokens == 36 and .text == .turns[2].text' <<< "$output") == true ]]
    [[ $(jq -sc '.[3:] | map(.completion_tokens)' <<< "$output") == '[5,7,3]' ]]
    expect 0 "$BASIN" status out-chats --failed
    shows 'chats.jsonl: byte 585: body.temperature: -1 is out of range 0..100'
    shows 'the role \"tool\" is not one of system, user, assistant'
    shows "a chat without messages"
    shows "the last message is the assistant's"
    shows '(line 7)'
    expect 0 "$BASIN" cat out-chats --format openai
    [[ $(jq -sc 'map(select(.error == null) | .custom_id)' <<< "$output") == '["m","t","p","c1","c2","c5"]' ]]
    [[ $(jq -sc '.[3].response | .status_code == 200 and .body.object == "chat.completion" and
        .body.choices[0].message.role == "assistant" and .body.choices[0].finish_reason == "length" and
        .body.usage.completion_tokens == 5' <<< "$output") == true ]]
    [[ $(jq -sc '.[4].response.body | .object == "text_completion" and (.choices[0].text | length) > 0' <<< "$output") == true ]]
    [[ $(jq -sc 'map(select(.error != null) | .custom_id) | sort' <<< "$output") == '["c3","c4","empty","last","tool"]' ]]
    expect 64 "$BASIN" cat out-chats --format openai --tokens
    expect 64 "$BASIN" cat base --format yaml
}

# tokens TEXT: its ids, without BOS.
tokens() { jq -nc --arg t "$1" '{id: "x", text: $t}' > text.jsonl; "$BASIN" tokenize "$MODEL" text.jsonl --no-special | jq -c .token_ids; }
# score IDS CACHE: log-probabilities of all tokens, by the span engine.
score() {
    jq -nc --argjson i "$1" '{ids: $i}' > scored.jsonl
    rm -rf out-scored
    jq -nc --arg m "$MODEL" --argjson c "$2" '{version: 1, job: "score", model: $m, cache: $c, score: {tokens: true},
        input: {path: "scored.jsonl", ids_key: "ids"}, output: {path: "out-scored"}, compute: {dtype: "f32"}}' > scored.json
    "$BASIN" run scored.json --quiet
    "$BASIN" cat out-scored --tokens | jq -c .logprobs
}

@test "turns: what a token sees is what the rule of generate.turn says" {
    printf '%s\n' '{"id": "t", "messages": ["Anne Elliot was there with her father and Sir Walter.", "And then what did he say?"]}' \
        '{"id": "long", "messages": ["Hi", "'"$(yes word | head -n 40 | tr '\n' ' ')"'"]}' > turns.jsonl
    local turn first second n_first n p got
    first=$(tokens $'Anne Elliot was there with her father and Sir Walter.\n\n')
    second=$(tokens $'\n\nAnd then what did he say?\n\n')
    n_first=$(jq length <<< "$first")
    n=$(($(jq length <<< "$second") + 1)) # the answer's last token goes in front
    for turn in stream chunk room; do
        job $turn '"turns.jsonl"' '{"max_new_tokens": 12, "template": "plain", "add_bos": false, "ignore_eos": true,
            "token_ids": true, "logprobs": true, "turn": "'$turn'", "min_new_tokens": 12}'
        "$BASIN" run $turn.json --quiet --set cache.window_tokens=34 --set compute.dtype=f32 || [[ $turn == room ]]
        "$BASIN" cat out-$turn --id t > row
        p=$((n_first + 11)) # where the second turn begins
        case $turn in
        stream) cache='{"window_tokens": 34}' ;;
        chunk) cache='{"window_tokens": 34, "prefill": "dense", "prefill_tokens": '$p', "chunk_tokens": '$n'}' ;;
        room) cache='{"window_tokens": '$((34 - n - 12))', "prefill": "dense", "prefill_tokens": '$p', "chunk_tokens": '$((n + 12))'}' ;;
        esac
        score "$(jq -c --argjson a "$first" --argjson b "$second" '$a + .token_ids[:12] + $b + .token_ids[12:]' row)" "$cache" > want
        # Of a chunk's answer the first token is the chunk's own; the others come one at a time.
        k=$([[ $turn == chunk ]] && echo 1 || echo 12)
        got=$(jq -c --slurpfile w want --argjson k $k --argjson f $((n_first + 12 + n - 1)) \
            '[.logprobs[12:12 + $k], $w[0][$f:$f + $k]] | transpose | map(.[0] - .[1] | fabs) | max' row)
        [[ $(jq -n "$got < 1e-4") == true ]] || { echo "$turn: $got"; false; }
    done
    # The three are not the same, and a turn without room fails alone.
    [[ $(cat <("$BASIN" cat out-stream --id t) <("$BASIN" cat out-chunk --id t) <("$BASIN" cat out-room --id t) |
        jq -s 'map(.sum_logprob) | unique | length') -eq 3 ]]
    [[ $("$BASIN" cat out-room | jq -r .id) == t ]]
    expect 0 "$BASIN" status out-room --failed
    shows "turn 1: prompt and answer may take"
}

@test "turns: the same bytes in any company and after kills" {
    for i in $(seq 12); do
        jq -nc --arg i $i '{id: $i, messages: ["Captain \($i)", "He said \($i)", "that", "\($i) was"]}'
    done > many.jsonl
    for turn in chunk room; do
        job many '"many.jsonl"' '{"max_new_tokens": 30, "template": "plain", "turn": "'$turn'", "temperature": 0.7, "seed": 3}'
        "$BASIN" run many.json --set cache.window_tokens=70 --out many-$turn-1 --set generate.streams=1 --quiet
        "$BASIN" run many.json --set cache.window_tokens=70 --out many-$turn-8 --set generate.streams=8 --quiet
        diff <(published many-$turn-1) <(published many-$turn-8)
        for k in 1 2 3; do
            "$BASIN" run many.json --set cache.window_tokens=70 --out many-$turn-k --checkpoint-seconds 0.01 --quiet &
            pid=$!
            for i in $(seq 200); do [[ -s $(echo many-$turn-k/.basin/work/*/*/commits) ]] && break; sleep 0.01; done
            sleep 0.0$k
            kill -9 $pid 2> /dev/null || true
            wait $pid 2> /dev/null || true
        done
        "$BASIN" run many.json --set cache.window_tokens=70 --out many-$turn-k --quiet
        diff <(published many-$turn-1) <(published many-$turn-k)
    done
}

@test "a chat without a template that is known fails by name, alone" {
    printf '%s\n' '{"id": "m", "messages": [{"role": "user", "content": "Hi"}]}' '{"id": "t", "text": "Hi"}' > two.jsonl
    job auto '"two.jsonl"' '{"max_new_tokens": 3}'
    expect 3 "$BASIN" run auto.json --quiet
    expect 0 "$BASIN" status out-auto --failed
    shows "a chat, but no template"
    shows "name one of qwen2.5, smollm2"
    expect 65 "$BASIN" run auto.json --set generate.template=chatlm --out none
    says 'template: "chatlm" is not a template this program knows; did you mean "chatml"?'
}

@test "what the model's own files say: template, sampling, ends" {
    cp -r "$MODEL" own
    jq '.chat_template = "{{ \u0027<|im_start|>\u0027 + m.role }}<|im_end|>"' "$MODEL/tokenizer_config.json" > own/tokenizer_config.json
    printf '%s\n' '{"id": "m", "messages": [{"role": "user", "content": "Hi"}]}' > hi.jsonl
    job own '"hi.jsonl"' '{"max_new_tokens": 8}'
    expect 0 "$BASIN" run own.json --set model="$PWD/own" --quiet
    expect 0 "$BASIN" cat out-own
    holds '.template == "chatml" and .temperature == 0'
    expect 66 "$BASIN" run own.json --set model="$PWD/own" --set generate.use_generation_config=true --out own-none
    says "generation_config.json"
    id=$("$BASIN" cat out-own --fields text > /dev/null; "$BASIN" run own.json --set model="$PWD/own" --set generate.token_ids=true \
        --out own-ids --quiet; "$BASIN" cat own-ids | jq '.token_ids[2]')
    printf '{"do_sample": false, "temperature": 0.3, "eos_token_id": [%s, 7]}' "$id" > own/generation_config.json
    expect 0 "$BASIN" run own.json --set model="$PWD/own" --set generate.use_generation_config=true --out own-eos --quiet
    expect 0 "$BASIN" cat own-eos
    holds '.temperature == 0 and .finish_reason == "stop" and .completion_tokens <= 3'
    printf '{"do_sample": true, "temperature": 0.3, "top_p": 0.5, "top_k": 9}' > own/generation_config.json
    # It has become another job, and says in what.
    expect 73 "$BASIN" run own.json --set model="$PWD/own" --set generate.use_generation_config=true --out own-eos
    says "sampling"
    expect 0 "$BASIN" run own.json --set model="$PWD/own" --set generate.use_generation_config=true --set generate.top_k=4 --out own-drawn --quiet
    expect 0 "$BASIN" cat own-drawn
    holds '.temperature == 0.3 and .top_p == 0.5 and .top_k == 4'
    printf '{"do_sample": true, "top_p": 7}' > own/generation_config.json
    expect 65 "$BASIN" run own.json --set model="$PWD/own" --set generate.use_generation_config=true --out own-bad
    says "top_p"
}

@test "bad prompts and bad requests are named; others unharmed" {
    printf '%s\n' '{"id": "none", "text": ""}' '{"id": "good", "text": "Anne"}' '{"id": "bad", "text": "\ud800"}' > bad.jsonl
    job bad '"bad.jsonl"' '{"max_new_tokens": 4, "add_bos": false}'
    expect 3 "$BASIN" run bad.json --quiet
    expect 0 "$BASIN" status out-bad --failed
    [[ $(jq -sc 'map(.id)' <<< "$output") == '["none","bad"]' ]]
    shows "the prompt has no tokens"
    expect 0 "$BASIN" cat out-bad
    holds '.id == "good" and .completion_tokens == 4'
    printf '%s\n' '{"id": "high", "ids": [1, 99999]}' '{"id": "fine", "ids": [1, 9]}' > ids.jsonl
    job ids '{"path": "ids.jsonl", "ids_key": "ids"}' '{"max_new_tokens": 4}'
    expect 3 "$BASIN" run ids.json --quiet
    expect 0 "$BASIN" status out-ids --failed
    shows "token id 99999"
}

@test "learned positions: prompt and answer end with their table, each document alone" {
    for family in gpt2 opt; do
        mkdir $family
        cp "$ROOT/tests/data/fixtures/$family"/{config.json,model.safetensors} $family
        jq -c '.model.vocab |= with_entries(select(.value < 256)) | .model.merges = []' "$ROOT/tests/data/tok/gpt2/tokenizer.json" > $family/tokenizer.json
        # 448 positions; an answer's last token needs none: the prompt's tokens + those written - 1 are fed.
        for n in 20 429 430 448 449 600; do
            jq -nc --argjson n $n '{custom_id: "p\($n)", body: {prompt: [range($n) | 2 + (. * 7 + $n) % 250], max_tokens: 20}}'
        done > table.jsonl
        jq -c '.custom_id = "one" + .custom_id | .body.max_tokens = 1' table.jsonl > one.jsonl
        job $family '["table.jsonl", "one.jsonl"]' '{"max_new_tokens": 20, "ignore_eos": true}'
        jq '.cache = {mode: "dense"}' $family.json > dense.json
        expect 3 "$BASIN" run dense.json --set model=$PWD/$family --quiet
        expect 0 "$BASIN" cat out-$family
        [[ $(jq -sc 'map([.id, .completion_tokens])' <<< "$output") == \
            '[["onep20",1],["onep429",1],["onep430",1],["onep448",1],["p20",20],["p429",20]]' ]]
        expect 0 "$BASIN" status out-$family --failed
        [[ $(jq -sc 'map(.id)' <<< "$output") == '["onep449","onep600","p430","p448","p449","p600"]' ]]
        [[ $(grep -c "past token 448: the $family family adds learned positions" <<< "$output") -eq 6 ]]
        # What fits is not touched by what does not; it is what a job without the others gives.
        head -n 2 table.jsonl > fits.jsonl
        jq '.input = "fits.jsonl"' dense.json > fits.json
        expect 0 "$BASIN" run fits.json --set model=$PWD/$family --out out-fits-$family --quiet
        diff <("$BASIN" cat out-$family --fields id,text,sum_logprob | tail -n 2) <("$BASIN" cat out-fits-$family --fields id,text,sum_logprob)
        # In a cache they cannot move: a document fails where something would have to leave it.
        jq '.input = "fits.jsonl"' $family.json > fits.json
        expect 3 "$BASIN" run fits.json --set model=$PWD/$family --set cache.window_tokens=40 --out out-sink-$family --quiet
        expect 0 "$BASIN" cat out-sink-$family
        holds '.id == "p20" and .completion_tokens == 20'
    done
}

@test "stop strings end a text across tokens and inside code points' bytes" {
    # Ids of bytes: a two-byte character is two tokens, and so are the letters of a stop string.
    printf '{"id": "x", "text": "Anne Elliot was"}\n' > stop.jsonl
    job whole '"stop.jsonl"' '{"max_new_tokens": 40}'
    "$BASIN" run whole.json --quiet
    text=$("$BASIN" cat out-whole | jq -r .text)
    for from in 3 9 14; do
        stop=${text:from:5}
        stop=${stop//$'\n'/ }
        [[ $text == *"$stop"* ]] || continue
        job cut$from '"stop.jsonl"' "$(jq -nc --arg s "$stop" '{max_new_tokens: 40, stop: [$s, "zzz"]}')"
        "$BASIN" run cut$from.json --quiet
        got=$("$BASIN" cat out-cut$from | jq -r .text)
        [[ $got == "${text%%"$stop"*}" ]]
        [[ $("$BASIN" cat out-cut$from | jq -r .finish_reason) == stop ]]
    done
}

@test "other streams may differ from the job's, another seed may not" {
    expect 73 "$BASIN" run job.json --out base --set generate.seed=6
    says "seed"
    expect 0 "$BASIN" run job.json --out base --set generate.streams=2
    says "nothing to do"
    expect 0 "$BASIN" verify base
}
