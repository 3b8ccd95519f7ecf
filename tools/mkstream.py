#!/usr/bin/env python3
"""Streaming truth for families that the attention_sinks package does not know, and shapes that fixtures of one size miss.

  mkstream.py FIXTURES [--only NAME,...] [--check]

Environment: python 3.11, torch==2.6.0 transformers==4.57.1.

A small engine over the reference modules of transformers, in float64, that shares nothing with the C code: one token
per forward; every layer keeps raw keys, as they were before any rotation, in a list; at each read the module's own
rotary code turns key i of the list to position i and the query to the end of the list; the list is cut after every
forward to the S first and the W last (of a layer with a window w of its own: to the w - 1 last).

--check   compares the engine on `llama`, `mistral`, `gpt_neox`, `gptj`, `falcon_new`, `mpt`, `qwen` with what attention_sinks recorded.
Else      RECORDED models get their streaming modes added to ref.json; MADE models are made: config.json,
          model.safetensors (random, peaked, seeded) and ref.json with dense and streaming modes.
"""
import argparse, importlib, json, os, sys, warnings

import mkfixture

MODES = {"sink_s4_w28": dict(S=4, W=28), "sink_s1_w15": dict(S=1, W=15), "window_s0_w32": dict(S=0, W=32)}
CHECKED = ["llama", "mistral", "gpt_neox", "gptj", "falcon_new", "mpt", "qwen"]
RECORDED = ["qwen2", "qwen3", "gemma3", "phi3", "stablelm2", "mistral_swa", "llama_rope_linear", "llama_rope_llama3",
            "llama_rope_yarn"]
NTOK = 120  # of the models made here

# name: (HF class, config). Head dimensions 20 to 256, odd head counts, GQA 1, 3, 8 and MQA, other thetas, biases.
MADE = {
    "llama_biases": ("Llama",
        dict(hidden_size=60, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=20,
             vocab_size=96, max_position_embeddings=512, rope_theta=500000.0, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True)),
    "mistral_hd24": ("Mistral",
        dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3, head_dim=24,
             vocab_size=97, max_position_embeddings=512, rope_theta=1000000.0, rms_norm_eps=1e-6, sliding_window=None)),
    "qwen2_hd80": ("Qwen2",
        dict(hidden_size=80, intermediate_size=56, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
             vocab_size=96, max_position_embeddings=512, rope_theta=1000000.0, rms_norm_eps=1e-6,
             rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128))),
    "qwen3_hd96": ("Qwen3",
        dict(hidden_size=40, intermediate_size=48, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1, head_dim=96,
             vocab_size=80, max_position_embeddings=512, rope_theta=20000.0, rms_norm_eps=1e-6, attention_bias=True)),
    "gemma3_hd256": ("Gemma3",
        dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=256,
             query_pre_attn_scalar=100, vocab_size=96, max_position_embeddings=512, rope_theta=1000000.0, rope_local_base_freq=5000.0,
             rope_scaling=dict(rope_type="linear", factor=8.0), sliding_window=7, rms_norm_eps=1e-6, tie_word_embeddings=True,
             final_logit_softcapping=10.0, layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    "phi3_long": ("Phi3",
        dict(hidden_size=80, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
             rms_norm_eps=1e-5, max_position_embeddings=256, original_max_position_embeddings=32, rope_theta=10000.0, pad_token_id=0,
             partial_rotary_factor=0.8, sliding_window=None,
             rope_scaling=dict(type="longrope", short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.3, 1.4, 1.5],
                               long_factor=[1.0, 1.3, 1.9, 2.8, 4.0, 5.5, 7.0, 8.0]))),
    "stablelm2_par": ("StableLm",
        dict(hidden_size=60, intermediate_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5, vocab_size=96,
             max_position_embeddings=512, rope_theta=10000.0, partial_rotary_factor=0.5, layer_norm_eps=1e-5, use_parallel_residual=True)),
    "gpt_neox_hd24": ("GPTNeoX",
        dict(hidden_size=72, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3, vocab_size=96, rotary_emb_base=25000,
             max_position_embeddings=512, rotary_pct=0.25, use_parallel_residual=True, attention_bias=False, hidden_act="gelu_fast")),
    "gptj_hd20": ("GPTJ",
        dict(n_embd=60, n_inner=64, n_layer=2, n_head=3, rotary_dim=12, n_positions=512, vocab_size=96)),
    "falcon_mq_bias": ("Falcon",
        dict(hidden_size=60, ffn_hidden_size=72, num_hidden_layers=2, num_attention_heads=3, vocab_size=96, multi_query=True,
             parallel_attn=True, new_decoder_architecture=False, alibi=False, bias=True, rope_theta=50000.0)),
    "falcon_one_norm": ("Falcon",
        dict(hidden_size=96, ffn_hidden_size=80, num_hidden_layers=2, num_attention_heads=6, num_kv_heads=2, vocab_size=96,
             new_decoder_architecture=True, num_ln_in_parallel_attn=1, alibi=False, bias=False, rope_theta=500042.0)),
    "mpt_clip": ("Mpt",
        dict(d_model=60, n_heads=3, n_layers=2, expansion_ratio=4, max_seq_len=512, vocab_size=96, no_bias=True,
             attn_config=dict(clip_qkv=0.8))),
    "mpt_qkln": ("Mpt",
        dict(d_model=40, n_heads=5, n_layers=2, expansion_ratio=4, max_seq_len=512, vocab_size=90, no_bias=True,
             attn_config=dict(qk_ln=True))),
    "granite": ("Granite",
        dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, vocab_size=96,
             max_position_embeddings=512, rope_theta=10000.0, rms_norm_eps=1e-5, embedding_multiplier=3.0, attention_multiplier=0.2,
             residual_multiplier=0.7, logits_scaling=2.5, tie_word_embeddings=True)),
    "qwen_logn": ("QWen",
        dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3, kv_channels=16, vocab_size=90,
             seq_length=16, rotary_pct=1.0, rotary_emb_base=30000, layer_norm_epsilon=1e-6, use_dynamic_ntk=False,
             use_logn_attn=True, no_bias=True)),
}


def with_qk_ln(model):
    """transformers reads MPT's qk_ln but does not compute it: the norms over all heads of q and of k, after Wqkv."""
    import torch
    for block in model.transformer.blocks:
        a, d = block.attn, model.config.d_model
        a.q_ln, a.k_ln = (torch.nn.LayerNorm(d, eps=1e-5, bias=False) for _ in "qk")

        def split(x, a=a, whole=a.Wqkv.forward):
            q, k, v = whole(x).chunk(3, dim=2)
            return torch.cat([a.q_ln(q), a.k_ln(k), v], 2)
        a.Wqkv.forward = split
    return model


class Raw:
    """What replaces a model's cache: raw keys, and who is still in it."""

    def __new__(cls, *a):
        import torch
        from transformers.cache_utils import DynamicCache

        class RawCache(DynamicCache):
            def __init__(self, engine):
                super().__init__()
                self.engine, self.k, self.v = engine, {}, {}

            def get_seq_length(self, layer_idx=0):
                l = self.engine.first_global
                return self.k[l].shape[2] if l in self.k else 0

            def update(self, k, v, layer, kwargs=None):
                if layer in self.k:
                    k, v = torch.cat([self.k[layer], k], 2), torch.cat([self.v[layer], v], 2)
                self.k[layer], self.v[layer] = k, v
                return self.engine.turned(k, layer), v

            def evict(self, mode):
                for l in self.k:
                    n, w = self.k[l].shape[2], self.engine.window(l, mode)
                    S, W = (mode["S"], mode["W"]) if w is None else (0, w - 1)
                    if n > S + W:
                        keep = lambda x: torch.cat([x[:, :, :S], x[:, :, n - W:]], 2)
                        self.k[l], self.v[l] = keep(self.k[l]), keep(self.v[l])
        return RawCache(*a)


class Engine:
    def __init__(self, model, mode):
        self.model, self.c = model, model.config
        base = getattr(model, "model", model.base_model)
        self.rotary = getattr(base, "rotary_emb", None)
        self.local = getattr(base, "rotary_emb_local", None)
        self.types = getattr(self.c, "layer_types", None) if self.local is not None else None
        self.first_global = self.types.index("full_attention") if self.types else 0
        self.module = importlib.import_module(type(model).__module__)
        self.gptj = self.c.model_type == "gptj"
        self.turn = getattr(self.module, "apply_rotary_pos_emb", None)   # the family's own rotation
        if self.rotary is not None and getattr(self.rotary, "rope_type", "") == "longrope":   # once, for length C + 1
            f, _ = self.rotary.rope_init_fn(self.c, "cpu", seq_len=mode["S"] + mode["W"] + 1)
            self.rotary.inv_freq = self.rotary.original_inv_freq = self.rotary.long_inv_freq = f

    def leave_keys_raw(self):
        """The family's rotation turns queries only. Its name is the module's: put back by run()."""
        turn, calls = self.turn, [0]

        def one(x, sin, cos):                                        # GPT-J: one tensor a call, k before q
            calls[0] += 1
            return x if calls[0] % 2 == 1 else turn(x, sin, cos)
        if turn is not None:
            self.module.apply_rotary_pos_emb = one if self.gptj else lambda q, k, *a, **kw: (turn(q, k, *a, **kw)[0], k)

    def window(self, layer, mode):
        return self.c.sliding_window if self.types and self.types[layer] == "sliding_attention" else None

    def turned(self, k, layer):
        """Raw keys [1, h, n, d], turned so that the last is where the query is: at self.p."""
        import torch
        n = k.shape[2]
        at = torch.arange(self.p - n + 1, self.p + 1)[None]
        if self.gptj:
            r = self.c.rotary_dim
            inv = 1.0 / (10000 ** (torch.arange(0, r, 2, dtype=torch.int64) / r))
            a = at[0, :, None] * inv[None, :]
            x = k.transpose(1, 2)
            y = self.turn(x[..., :r], a.sin()[None], a.cos()[None])
            return torch.cat([y, x[..., r:]], -1).transpose(1, 2)
        rotary = self.local if self.types and self.types[layer] == "sliding_attention" else self.rotary
        if rotary is None:
            assert self.c.model_type == "mpt"                        # biases by distance: nothing turns
            return k
        cos, sin = rotary(k, at)
        r = cos.shape[-1]
        return torch.cat([self.turn(k[..., :r], k[..., :r], cos, sin)[1], k[..., r:]], -1)

    def run(self, ids, mode):
        import torch
        cache, out = Raw(self), []
        self.leave_keys_raw()
        for i in ids:
            self.p = n = cache.get_seq_length()
            kw = dict(position_ids=torch.tensor([[n]]), cache_position=torch.tensor([n]))
            rows = lambda m: torch.zeros(1, 1, 1, m)
            if self.types:
                own = cache.k[self.types.index("sliding_attention")].shape[2] if cache.k else 0
                kw["attention_mask"] = {"full_attention": rows(n + 1), "sliding_attention": rows(own + 1)}
            elif self.c.model_type == "mpt":
                kw = {}                                              # counts the cache itself
            elif self.c.model_type != "falcon":
                kw["attention_mask"] = rows(n + 1)
            out.append(self.model(input_ids=torch.tensor([[i]]), past_key_values=cache, use_cache=True, **kw).logits[0, -1])
            cache.evict(mode)
        if self.turn is not None:
            self.module.apply_rotary_pos_emb = self.turn
        return mkfixture.nll_of(torch.stack(out).double(), ids)


def run_qwen(model, ids, mode):
    """The same for Qwen 1, whose modules keep a list of tuples [1, n, heads, d]; logn follows the end of the list."""
    import torch
    from transformers.models.llama.modeling_llama import rotate_half

    def attend(a, x, rope, layer_past=None, use_cache=True):
        q, k, v = (a._split_heads(t, a.num_heads, a.head_dim) for t in a.c_attn(x).split(a.split_size, dim=2))
        if layer_past is not None:
            k, v = torch.cat([layer_past[0], k], 1), torch.cat([layer_past[1], v], 1)
        n = k.size(1)
        turn = lambda t, lo: t * rope[0][0][:, lo:n] + rotate_half(t) * rope[0][1][:, lo:n]
        q = turn(q, n - 1) * (a.logn_tensor[:, n - 1:n] if a.use_logn_attn else 1.0)
        all_of_it = torch.ones(1, 1, n, n, dtype=torch.bool)
        o, _ = a._attn(q.permute(0, 2, 1, 3), turn(k, 0).permute(0, 2, 1, 3), v.permute(0, 2, 1, 3), all_of_it)
        return a.c_proj(a._merge_heads(o, a.num_heads, a.head_dim)), (k, v)
    for block in model.transformer.h:
        block.attn.forward = lambda *x, a=block.attn, **kw: attend(a, *x, **kw)
    past, out, S, W = None, [], mode["S"], mode["W"]
    for i in ids:
        o = model(input_ids=torch.tensor([[i]]), past_key_values=past)
        cut = lambda t: t if t.size(1) <= S + W else torch.cat([t[:, :S], t[:, t.size(1) - W:]], 1)
        past = [(cut(k), cut(v)) for k, v in o.past_key_values]
        out.append(o.logits[0, -1])
    return mkfixture.nll_of(torch.stack(out).double(), ids)


def classes(key):
    import transformers
    if key == "QWen":
        return mkfixture.classes(key)
    if key == "Gemma3":
        return transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM
    return getattr(transformers, key + "Config"), getattr(transformers, key + "ForCausalLM")


def load(d, key, weights):
    import torch
    conf, cls = classes(key)
    c = conf.from_pretrained(d)
    model = cls(c) if key == "QWen" else cls._from_config(c, attn_implementation="eager", torch_dtype=torch.float64)
    if key == "Mpt" and model.config.attn_config.qk_ln:
        with_qk_ln(model)
    left = model.load_state_dict(weights, strict=False)
    assert all(k.endswith((".inv_freq", ".attn.bias", ".masked_bias")) for k in left.unexpected_keys), left
    assert all("rotary" in k or k == "lm_head.weight" for k in left.missing_keys), left
    model.tie_weights()
    model = model.double().eval()
    assert all(p.dtype == torch.float64 for p in list(model.parameters()) + list(model.buffers()) if p.is_floating_point())
    return model


def make(name, d):
    """config.json and model.safetensors, in the world as it is."""
    import torch
    from safetensors.torch import save_file
    key, ca = MADE[name]
    conf, cls = classes(key)
    kw = dict(ca, bos_token_id=0, eos_token_id=1)
    kw.setdefault("tie_word_embeddings", key in ("Falcon", "Mpt"))
    if key == "GPTJ":
        kw.update(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    c = conf(**kw)
    model = cls(c)
    if key == "Mpt" and c.attn_config.qk_ln:
        with_qk_ln(model)
    mkfixture.init_weights(model, 77000 + list(MADE).index(name))
    model.tie_weights()
    c.architectures = [cls.__name__]
    os.makedirs(d, exist_ok=True)
    c.save_pretrained(d)
    drop = {"lm_head.weight"} if c.tie_word_embeddings else set()
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k not in drop and "rotary" not in k},
              d + "/model.safetensors", metadata={"format": "pt"})


def dense(model, ids):
    import torch
    return mkfixture.nll_of(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), ids)


def key_of(name):
    return MADE[name][0] if name in MADE else mkfixture.ARCH[name][1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("fixtures")
    p.add_argument("--only")
    p.add_argument("--check", action="store_true")
    a = p.parse_args()
    warnings.filterwarnings("ignore")
    import torch, transformers
    from safetensors.torch import load_file
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    names = a.only.split(",") if a.only else CHECKED if a.check else RECORDED + list(MADE)
    for n in names:
        if n in MADE and not a.check:
            make(n, os.path.join(a.fixtures, n))
    weights = {n: {k: v.double() for k, v in load_file(f"{a.fixtures}/{n}/model.safetensors").items()} for n in names}
    mkfixture.float64_world()
    for n in names:
        d = os.path.join(a.fixtures, n)
        ref = json.load(open(d + "/ref.json")) if n not in MADE else {}
        if n in MADE:
            g = torch.Generator().manual_seed(4242)
            ref["ids"] = torch.randint(2, MADE[n][1]["vocab_size"], (NTOK,), generator=g).tolist()
        ids, report = ref["ids"], {}
        if n in MADE:
            ids_dense = ids[:32] if n == "phi3_long" else ids       # longrope turns the whole of a longer text differently
            ref["dense"] = dict(nll=dense(load(d, key_of(n), weights[n]), ids_dense).tolist())
        for mode, m in MODES.items():
            model = load(d, key_of(n), weights[n])
            nll = run_qwen(model, ids, m) if key_of(n) == "QWen" else Engine(model, m).run(ids, m)
            if a.check:
                report[mode] = (nll - torch.tensor(ref[mode]["nll"])).abs().max().item()
                continue
            C = m["S"] + m["W"]
            if "dense" in ref:
                short = min(C + 1, len(ref["dense"]["nll"]))
                diff = (nll[:short] - torch.tensor(ref["dense"]["nll"][:short])).abs().max().item()
                report[mode] = [nll.mean().item(), diff]
            ref[mode] = dict(m, mean_nll=nll.mean().item(), nll=nll.tolist())
        print(n, json.dumps(report), flush=True)
        if not a.check:
            ref["streaming_code"] = "tools/mkstream.py: raw keys turned at read by the modules of transformers " + transformers.__version__
            ref.setdefault("versions", dict(torch=torch.__version__, transformers=transformers.__version__))
            with open(d + "/ref.json", "w") as f:
                json.dump(ref, f)


if __name__ == "__main__":
    main()
