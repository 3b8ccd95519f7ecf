#!/usr/bin/env python3
"""Greedy continuation of SmolLM2-135M-Instruct by the reference attention_sinks implementation.

  mksmollm2.py MODEL.gguf RECORDED/ref.json > greedy.json

Environment: python 3.11, torch==2.2.2 numpy<2 transformers==4.34.0 attention-sinks==0.4.0 gguf.

The file's weights dequantized to float32 exactly; float32 arithmetic; the recorded prompt in one dense pass, then one
token at a time, S and W as recorded. The ids must begin with the recorded ones. `gap` is each step's distance between
the two highest logits: where it is small, another order of additions may choose otherwise.
"""
import json, sys

import numpy as np
import torch
import attention_sinks
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize

N_NEW = 200
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def hf_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, what, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[what]}.weight"


def load(path, sinks):
    r = GGUFReader(path)
    meta = lambda k: r.fields["llama." + k].parts[-1][0].item()
    n_head, n_kv = meta("attention.head_count"), meta("attention.head_count_kv")
    config = transformers.LlamaConfig(
        hidden_size=meta("embedding_length"), intermediate_size=meta("feed_forward_length"), num_hidden_layers=meta("block_count"),
        num_attention_heads=n_head, num_key_value_heads=n_kv, vocab_size=meta("vocab_size"), max_position_embeddings=meta("context_length"),
        rope_theta=meta("rope.freq_base"), rms_norm_eps=meta("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True)
    weights = {}
    for t in r.tensors:
        w = dequantize(t.data, t.tensor_type).astype(np.float32)
        if ".attn_q." in t.name or ".attn_k." in t.name:  # GGUF has the two halves of a head's rotary pairs interleaved
            heads = n_head if ".attn_q." in t.name else n_kv
            w = w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        weights[hf_name(t.name)] = torch.tensor(w)
    model = attention_sinks.LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights, attention_sink_size=sinks["S"],
                                                             attention_sink_window_size=sinks["W"], torch_dtype=torch.float32).eval()
    for name, p in model.named_parameters():
        assert torch.equal(p, weights["model.embed_tokens.weight" if name == "lm_head.weight" else name]), name
    return model


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    with open(sys.argv[2]) as f:
        recorded = json.load(f)["generate"]
    model = load(sys.argv[1], recorded)
    o = model(input_ids=torch.tensor([recorded["prompt"]]), use_cache=True)
    ids, gap = [], []
    for _ in range(N_NEW):
        top = o.logits[0, -1].topk(2)
        ids.append(int(top.indices[0]))
        gap.append(float(top.values[0] - top.values[1]))
        o = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=o.past_key_values, use_cache=True)
    n = len(recorded["greedy"])
    assert ids[:n] == recorded["greedy"], "not what was recorded"
    print(f"the {n} recorded ids are the same; smallest gap {min(gap):.4f} at token {gap.index(min(gap))}", file=sys.stderr)
    out = {"model": "SmolLM2-135M-Instruct Q4_1, dequantized to float32", "versions": {
        "torch": torch.__version__, "transformers": transformers.__version__, "attention_sinks": attention_sinks.__version__},
        "generate": {"S": recorded["S"], "W": recorded["W"], "prompt": recorded["prompt"], "greedy": ids,
                     "gap": [round(g, 4) for g in gap]}}
    print(json.dumps(out).replace(', "', ',\n"'))


main()
