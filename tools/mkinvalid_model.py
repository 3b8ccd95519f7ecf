#!/usr/bin/env python3
"""Writes tests/data/invalid/model/CASE: models that differ from the llama fixture in one thing.

usage: tools/mkinvalid_model.py    from the top of the tree; needs nothing but Python
"""
import json
import os
import shutil
import struct

OUT = "tests/data/invalid/model"
FIXTURE = "tests/data/fixtures/llama"
CONFIG = json.load(open(f"{FIXTURE}/config.json"))


def case(name, status, message):
    d = f"{OUT}/{name}"
    os.makedirs(d, exist_ok=True)
    open(f"{d}/error", "w").write(f"{status}\n{message}\n")
    return d


def config(name, status, message, drop=(), **changes):
    d = case(name, status, message)
    c = {k: v for k, v in CONFIG.items() if k not in drop} | changes
    json.dump(c, open(f"{d}/config.json", "w"), indent=1)


def raw(name, status, message, text):
    d = case(name, status, message)
    open(f"{d}/config.json", "wb").write(text)


TINY = dict(hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1, vocab_size=16)


def tiny():
    """The corner of every tensor of the fixture that a model of TINY's shape has."""
    b = open(f"{FIXTURE}/model.safetensors", "rb").read()
    n = struct.unpack("<Q", b[:8])[0]
    head, data, t = json.loads(b[8:8 + n]), b[8 + n:], {}
    small = {"embed_tokens": (16, 8), "lm_head": (16, 8), "q_proj": (8, 8), "k_proj": (4, 8), "v_proj": (4, 8),
             "o_proj": (8, 8), "gate_proj": (12, 8), "up_proj": (12, 8), "down_proj": (8, 12)}
    for k, v in head.items():
        if k == "__metadata__":
            continue
        at, rows, cols = v["data_offsets"][0], 1, 8
        for part, shape in small.items():
            if part in k:
                rows, cols = shape
        width = v["shape"][-1] * 4
        cut = b"".join(data[at + r * width:at + r * width + cols * 4] for r in range(rows))
        t[k] = ["F32", [rows, cols] if len(v["shape"]) == 2 else [cols], cut]
    return t


def weights(name, status, message, edit):
    """edit(tensors): name -> [dtype, shape, bytes]"""
    t = tiny()
    edit(t)
    out, at, body = {}, 0, b""
    for k, (dt, shape, raw_bytes) in t.items():
        out[k] = {"dtype": dt, "shape": shape, "data_offsets": [at, at + len(raw_bytes)]}
        at += len(raw_bytes)
        body += raw_bytes
    text = json.dumps(out).encode()
    text += b" " * (-len(text) % 8)
    d = case(name, status, message)
    json.dump(CONFIG | TINY, open(f"{d}/config.json", "w"), indent=1)
    open(f"{d}/model.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + body)


def drop(name):
    return lambda t: t.pop(name)


def put(name, dtype, shape, data):
    def f(t):
        t[name] = [dtype, shape, data]
    return f


def patch(name, at, data):
    def f(t):
        b = bytearray(t[name][2])
        b[at:at + len(data)] = data
        t[name][2] = bytes(b)
    return f


shutil.rmtree(OUT, ignore_errors=True)
NAN, INF = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
L0 = "model.layers.0."

raw("config_empty", "format", "config.json:1:", b"")
raw("config_not_json", "format", "config.json:2:", b'{"model_type": "llama",\n oops}')
raw("config_array", "format", "must be an object", b"[]")
raw("config_duplicate", "format", "duplicate", b'{"model_type": "llama", "model_type": "llama"}')
raw("config_nesting_bomb", "format", "maximum parsing depth", b"[" * 100000)
raw("config_nan", "format", "config.json:1:", b'{"model_type": "llama", "rope_theta": NaN}')
config("type_missing", "format", "$.model_type: missing", drop=["model_type"])
config("type_unknown", "unsupported", '$.model_type: "mamba"', model_type="mamba")
config("type_number", "format", "must be a string, not integer", model_type=7)
config("field_unknown", "unsupported", "$.attention_sparsity: not a field of the llama family", attention_sparsity=0.5)
config("field_missing", "format", "$.num_hidden_layers: missing", drop=["num_hidden_layers"])
config("field_string", "format", "$.hidden_size: must be an integer, not string", hidden_size="64")
config("field_real", "format", "$.hidden_size: must be an integer, not number", hidden_size=64.5)
config("field_negative", "format", "$.intermediate_size: out of range", intermediate_size=-96)
config("field_zero", "format", "$.num_attention_heads: out of range", num_attention_heads=0)
config("field_huge", "format", "$.vocab_size: out of range", vocab_size=1 << 39)
config("layers_millions", "format", "$.num_hidden_layers: out of range", num_hidden_layers=5000000)
config("bool_number", "format", "$.tie_word_embeddings: must be true or false", tie_word_embeddings=1)
config("eps_zero", "format", "$.rms_norm_eps: out of range", rms_norm_eps=0)
config("theta_negative", "format", "$.rope_theta: out of range", rope_theta=-1.0)
config("heads_not_dividing", "format", "$.num_key_value_heads: must divide", num_key_value_heads=3)
config("hidden_not_divisible", "format", "$.num_attention_heads: must divide hidden_size", num_attention_heads=6)
config("head_dim_odd", "format", "$.head_dim: must be even", head_dim=15)
config("act_unknown", "unsupported", 'activation "mish" is not known', hidden_act="mish")
config("window_in_llama", "unsupported", "$.sliding_window", sliding_window=32)
config("quantized", "unsupported", "$.quantization_config", quantization_config={"bits": 4})
config("rope_dynamic", "unsupported", '"dynamic" is not supported', rope_scaling={"type": "dynamic", "factor": 2.0})
config("rope_longrope", "format", "a list of longrope factors is missing", rope_scaling={"rope_type": "longrope"})
config("rope_no_type", "format", '"rope_type" is missing', rope_scaling={"factor": 2.0})
config("rope_no_factor", "format", '"factor" is missing', rope_scaling={"type": "linear"})
config("rope_factor_zero", "format", "rope_scaling.factor: out of range", rope_scaling={"type": "linear", "factor": 0})
config("rope_field_unknown", "unsupported", "rope_scaling.short_factor: unknown field",
       rope_scaling={"type": "linear", "factor": 2.0, "short_factor": [1]})
config("rope_llama3_freqs", "format", "high_freq_factor must be above",
       rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
                     "original_max_position_embeddings": 64})
config("rope_string", "format", "$.rope_scaling: must be an object or null", rope_scaling="linear")
config("vocab_mismatch", "format", "tensor model.embed_tokens.weight has shape [256, 64]; config.json asks for [300, 64]",
       vocab_size=300)
config("layer_missing", "format", "tensor model.layers.2.input_layernorm.weight is missing", num_hidden_layers=3)
config("layer_extra", "unsupported", "tensor model.layers.1.", num_hidden_layers=1)
config("bias_missing", "format", "tensor model.layers.0.self_attn.q_proj.bias is missing", attention_bias=True)
weights("tensor_missing", "format", "tensor model.norm.weight is missing", drop("model.norm.weight"))
weights("head_missing", "format", "tensor lm_head.weight is missing", drop("lm_head.weight"))
weights("tensor_transposed", "format", "has shape [8, 12]; config.json asks for [12, 8]",
        lambda t: t[L0 + "mlp.up_proj.weight"].__setitem__(1, [8, 12]))
weights("tensor_flat", "format", "has shape [64]; config.json asks for [8, 8]",
        lambda t: t[L0 + "self_attn.q_proj.weight"].__setitem__(1, [64]))
weights("tensor_unknown", "unsupported", "tensor model.layers.0.mlp.experts.0.weight has no place",
        put(L0 + "mlp.experts.0.weight", "F32", [1], b"\0\0\0\0"))
weights("tensor_sinks", "unsupported", "tensor model.layers.0.self_attn.sinks: attention with learned sink logits",
        put(L0 + "self_attn.sinks", "F32", [2], bytes(8)))
weights("tensor_int", "unsupported", "is stored as I32", put("model.norm.weight", "I32", [8], bytes(32)))
weights("nan_matrix", "format", "model.layers.1.mlp.down_proj.weight", patch("model.layers.1.mlp.down_proj.weight", 40, NAN))
weights("inf_norm", "format", "model.layers.0.input_layernorm.weight", patch(L0 + "input_layernorm.weight", 8, INF))
weights("nan_embedding", "format", "model.embed_tokens.weight", patch("model.embed_tokens.weight", 8 * 4 * 2, NAN))
weights("nan_head", "format", "lm_head.weight", patch("lm_head.weight", 40, NAN))
print(len(os.listdir(OUT)), "cases")
