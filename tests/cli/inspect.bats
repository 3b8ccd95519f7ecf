#!/usr/bin/env bats
# `basin inspect`: what it says of models that are taken, and of those that are refused.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
}

# with_tensors DIR NAME...: a copy of the tied fixture with more tensors of 16 x 4 bytes in DIR.
with_tensors() {
    local dir=$1
    shift
    cp -r "$ROOT/tests/data/fixtures/llama_tied" "$dir"
    python3 - "$dir/model.safetensors" "$@" << 'PY'
import json, struct, sys
path, names = sys.argv[1], sys.argv[2:]
raw = open(path, "rb").read()
n = struct.unpack("<Q", raw[:8])[0]
head, data = json.loads(raw[8:8 + n]), raw[8 + n:]
for name in names:
    head[name] = {"dtype": "F32", "shape": [16], "data_offsets": [len(data), len(data) + 64]}
    data += bytes(64)
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)
PY
}

@test "the demo model, for machines" {
    expect 0 "$BASIN" inspect "$MODEL" --json
    [[ ! -s err ]]
    holds '.family == "llama" and .layers == 6 and .d_model == 192 and .tied
        and .rope == {"kind": "plain", "theta": 10000, "interleaved": false}
        and .window == null and .attention == "mqa"'
    # Sums agree with the list of tensors, cache sizes with the shape.
    holds '.parameters == ([.tensors[] | select(.role) | .shape | reduce .[] as $n (1; . * $n)] | add)
        and .file_bytes == ([.tensors[].bytes] | add)
        and (.stored | map(.tensors) | add) == (.tensors | length)
        and .cache_bytes_per_token.f32 == 2 * 4 * .layers * .kv_heads * .d_head
        and .cache.memory_bytes.bf16 == 2 * 1024 * .cache_bytes_per_token.bf16
        and .weights_memory_bytes.bf16 > .file_bytes'
    holds '.tokenizer | .kind == "byte-level BPE" and .bos.id == 0 and .bos.text == "<|endoftext|>"
        and .adds_bos and .vocabulary == 2048'
    holds '[.tensors[] | select(.role == "q") | .layer] == [0, 1, 2, 3, 4, 5]'
    holds '.identity | test("^[0-9a-f]{32}$")'
}

@test "the demo model, for people" {
    expect 0 "$BASIN" inspect "$MODEL"
    [[ ! -s err ]]
    [[ "$output" == *"family      llama"* ]]
    [[ "$output" == *"2,976,192"* && "$output" == *"with S=4 W=1020"* ]]
    [[ "$output" == *'BOS 0 "<|endoftext|>" (put before a text)'* ]]
    [[ "$output" == *"layer 5, MLP down"* ]]
}

@test "rotary scalings, windows and biases as they are in config.json" {
    local f=$ROOT/tests/data/fixtures
    expect 0 "$BASIN" inspect "$f/llama_rope_yarn" --json
    holds '.rope.kind == "yarn" and .rope.factor > 1 and .rope.original_context > 0'
    expect 0 "$BASIN" inspect "$f/llama_rope_llama3" --json
    holds '.rope.kind == "llama3" and .rope.high_freq_factor > .rope.low_freq_factor'
    expect 0 "$BASIN" inspect "$f/llama_rope_linear" --json
    holds '.rope.kind == "linear"'
    expect 0 "$BASIN" inspect "$f/mistral_swa" --json
    jq -e --argjson w "$(jq .sliding_window "$f/mistral_swa/config.json")" '.window == $w' \
        <<< "$output"
    expect 0 "$BASIN" inspect "$f/llama" --json # no tokenizer: ids can be scored
    holds '.tokenizer.message | contains("tokenizer.json")'
}

@test "local layers, norms, scales and positions of other families" {
    local f=$ROOT/tests/data/fixtures
    expect 0 "$BASIN" inspect "$f/gemma3" --json
    holds '.local_layers == 2 and .window == 24 and .local_theta == 10000 and .rope.theta == 1000000
        and .qk_norm and .post_norms and .embed_scale == 8 and .activation == "gelu_tanh"'
    holds '[.tensors[] | select(.role == "norm_q") | .layer] == [0, 1, 2]'
    expect 0 "$BASIN" inspect "$f/gemma3"
    [[ "$output" == *"24 tokens in 2 of the layers"* && "$output" == *"embedding times 8"* ]]
    expect 0 "$BASIN" inspect "$f/falcon_new" --json
    holds '.parallel and .norm == "layer" and (.gated | not) and .local_layers == 0 and .window == null'
    expect 0 "$BASIN" inspect "$f/stablelm2" --json
    holds '.positions == "rope" and .rotary_dimensions == 4'
    expect 0 "$BASIN" inspect "$f/mpt" --json
    holds '.positions == "alibi" and .rotary_dimensions == 0'
    expect 0 "$BASIN" inspect "$f/gpt2" --json
    holds '.positions == "learned" and ([.tensors[] | select(.role == "positions")] | length) == 1'
    # every role of every fixture has words
    for d in "$f"/*/config.json; do
        expect 0 "$BASIN" inspect "${d%/config.json}"
        [[ "$output" != *"(null)"* ]]
    done
}

@test "a tensor that is not read says why" {
    with_tensors more model.layers.0.self_attn.rotary_emb.inv_freq
    expect 0 "$BASIN" inspect more --json
    holds '.tensors[] | select(.name | endswith("inv_freq")) |
        .role == null and (.ignored | length > 0)'
    expect 0 "$BASIN" inspect more
    [[ "$output" == *"inv_freq"*"ignored: "* ]]
    with_tensors again lm_head.weight
    expect 0 "$BASIN" inspect again --json
    holds '.tensors[] | select(.name == "lm_head.weight") | .ignored | contains("tied")'
}

@test "a refused model: what and why on stderr, 65" {
    with_tensors odd model.layers.0.self_attn.surprise.weight
    expect 65 "$BASIN" inspect odd
    says "surprise.weight has no place in the llama family"
    [[ -z "$output" ]]
    cp -r "$MODEL" family
    sed -i 's/"model_type": *"llama"/"model_type": "rwkv"/' family/config.json
    expect 65 "$BASIN" inspect family --json
    says '$.model_type: "rwkv"'
    [[ -z "$output" ]]
    cp -r "$MODEL" tokens
    sed -i 's/"type": *"BPE"/"type": "Surprise"/' tokens/tokenizer.json
    expect 65 "$BASIN" inspect tokens --json
    holds '.family == "llama" and (.tokenizer.message | length > 0)'
    [[ -s err ]]
    expect 65 "$BASIN" inspect "$ROOT/tests/data/invalid/gguf/model_key_unknown/model.gguf"
    [[ -z "$output" ]]
    says "$(tail -n 1 "$ROOT/tests/data/invalid/gguf/model_key_unknown/error")"
    expect 66 "$BASIN" inspect nowhere
    expect 64 "$BASIN" inspect
    says "MODEL is missing"
}
