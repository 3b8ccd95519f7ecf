#!/usr/bin/env python3
"""Writes tests/data/invalid/gguf/CASE: GGUF files that are wrong in one thing, and the error each
must give. Cases named model_* are whole files that hold no model this program computes.

usage: tools/mkinvalid_gguf.py    from the top of the tree; needs nothing but Python
"""
import os
import shutil
import struct

OUT = "tests/data/invalid/gguf"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
CODE = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
T_F32, T_Q4_0, T_Q8_0, T_Q2_K = 0, 2, 8, 10


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def text(s, n=None):
    b = s if isinstance(s, bytes) else s.encode()
    return u64(len(b) if n is None else n) + b


def scalar(t, v):
    return text(v) if t == STR else struct.pack("<" + CODE[t], v)


def kv(key, t, v):
    return text(key) + u32(t) + scalar(t, v)


def arr(key, t, values, n=None):
    return text(key) + u32(ARR) + u32(t) + u64(len(values) if n is None else n) + b"".join(scalar(t, v) for v in values)


class Tensor:
    """dims with the fastest first, as the file has them."""

    def __init__(self, name, dims, data=None, type=T_F32, offset=None):
        n = 4
        for d in dims:
            n *= d
        self.name, self.dims, self.type, self.offset = name, dims, type, offset
        self.data = bytes(n) if data is None else data


def info(t, offset):
    return text(t.name) + u32(len(t.dims)) + b"".join(u64(d) for d in t.dims) + u32(t.type) + u64(offset)


def gguf(values=(), tensors=(), version=3, n_tensors=None, n_values=None, align=32):
    head = b"GGUF" + u32(version) + u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(values) if n_values is None else n_values) + b"".join(values)
    body = b""
    for t in tensors:
        at = len(body) if t.offset is None else t.offset
        head += info(t, at)
        body = body[:at] + bytes(max(0, at - len(body))) + t.data
        body += bytes(-len(body) % align)
    return head + bytes(-len(head) % align) + body if tensors else head


def case(name, status, message, data, file="model.gguf", **more):
    d = f"{OUT}/{name}"
    os.makedirs(d)
    open(f"{d}/error", "w").write(f"{status}\n{message}\n")
    open(f"{d}/{file}", "wb").write(data)
    for k, v in more.items():
        open(f"{d}/{k}", "wb").write(v)


shutil.rmtree(OUT, ignore_errors=True)
NAME = kv("general.name", STR, "x")
HUGE = 1 << 63

# ---- the first 24 bytes
case("empty", "format", "byte 0: not a GGUF file", b"")
case("three_bytes", "format", "byte 0: not a GGUF file", b"GGU")
case("magic_wrong", "format", "byte 0: not a GGUF file", b"GGML" + gguf()[4:])
case("magic_swapped", "unsupported", "byte 0: a byte-swapped GGUF file", b"FUGG" + gguf()[4:])
case("version_cut", "format", "byte 4: the file ends before the version", b"GGUF\3\0")
case("version_0", "unsupported", "byte 4: GGUF version 0; versions 2 and 3", gguf(version=0))
case("version_1", "unsupported", "byte 4: GGUF version 1; versions 2 and 3", gguf(version=1))
case("version_99", "unsupported", "byte 4: GGUF version 99; versions 2 and 3", gguf(version=99))
case("big_endian", "unsupported", "byte 4: the file is big-endian", gguf(version=0x03000000))
case("counts_cut", "format", "byte 16: the file ends before the counts", gguf()[:20])
case("tensors_2_63", "format", "byte 8: 9223372036854775808 tensors in a file", gguf(n_tensors=HUGE))
case("tensors_many", "format", "byte 8: 9 tensors in a file", gguf([NAME], n_tensors=9))
case("values_2_63", "format", "byte 16: 9223372036854775808 metadata entries", gguf(n_values=HUGE))
case("values_many", "format", "byte 16: 7 metadata entries in a file", gguf([NAME], n_values=7))

# ---- metadata
case("key_2_63", "format", "byte 24: a metadata key is a string of 9223372036854775808 bytes",
     gguf([u64(HUGE) + b"general.name" + u32(U8) + b"\0"]))
case("key_beyond", "format", "byte 24: a metadata key is a string of 100 bytes; the file has",
     gguf([text("general.name", 100) + u32(U8) + b"\0"]))
case("key_empty", "format", "byte 24: a metadata key has 0 bytes", gguf([kv("", U32, 1)]))
case("key_cut", "format", "the file ends before a metadata key", gguf([NAME], n_values=2) + b"\0\0\0")
case("key_space", "format", "byte 24: a metadata key holds the byte 0x20", gguf([kv("a b", U32, 1)]))
case("key_nul", "format", "byte 24: a metadata key holds the byte 0x00", gguf([kv("a\0b", U32, 1)]))
case("key_not_ascii", "format", "byte 24: a metadata key holds the byte 0xc3", gguf([kv("é", U32, 1)]))
case("key_twice", "format", "byte 57: general.name is there twice, at byte 24",
     gguf([NAME, NAME]))
case("type_13", "unsupported", "byte 36: a.bc has the unknown type 13", gguf([text("a.bc") + u32(13) + b"\0"]))
case("type_cut", "format", "the file ends before the type of a value", gguf([text("general.name") + b"\0"]))
case("value_cut", "format", "a.b has 1 values of at least 8 bytes; the file has 2", gguf([text("a.b") + u32(U64) + b"\0\0"]))
case("string_cut", "format", "general.name has 1 values of at least 8 bytes", gguf([text("general.name") + u32(STR) + b"\0"]))
case("string_beyond", "format", "general.name: ", gguf([text("general.name") + u32(STR) + text("x", 40)]))
case("string_2_63", "format", "the value is a string of 9223372036854775808 bytes",
     gguf([text("general.name") + u32(STR) + text("x", HUGE)]))
case("bool_2", "format", "byte 39: a.b: a bool is 0 or 1, not 2", gguf([kv("a.b", BOOL, 2)]))
case("array_type_13", "unsupported", "a.b has the unknown type 13", gguf([text("a.b") + u32(ARR) + u32(13) + u64(0)]))
case("array_nested", "unsupported", "byte 24: a.b is an array of arrays",
     gguf([text("a.b") + u32(ARR) + u32(ARR) + u64(1) + u32(U8) + u64(0)]))
case("array_cut", "format", "the file ends before the length of an array", gguf([text("a.b") + u32(ARR) + u32(U8) + b"\0"]))
case("array_2_63", "format", "byte 24: a.b has 9223372036854775808 values in a file", gguf([arr("a.b", U8, [1], HUGE)]))
case("array_beyond", "format", "byte 24: a.b has 20 values of at least 4 bytes; the file has 8 left",
     gguf([arr("a.b", U32, [1, 2], 20)]))
case("array_strings_many", "format", "a.b has 5 values of at least 8 bytes; the file has 18 left",
     gguf([arr("a.b", STR, ["x", "y"], 5)]))
case("array_string_beyond", "format", "a.b: ",
     gguf([text("a.b") + u32(ARR) + u32(STR) + u64(2) + text("x") + text("yyyyyyyy", 9)]))
case("array_string_2_63", "format", "an element is a string of 9223372036854775808 bytes",
     gguf([text("a.b") + u32(ARR) + u32(STR) + u64(2) + text("x") + text("yyyyyyyy", HUGE)]))
case("array_bool_7", "format", "byte 53: a.b: a bool is 0 or 1, not 7", gguf([arr("a.b", BOOL, [0, 1, 7])]))
for n in (0, 1, 13, 24, 1 << 31):
    case(f"alignment_{n}", "format", f"byte 24: general.alignment is {n}; it must be a power of two",
         gguf([kv("general.alignment", U32, n)]))
case("alignment_u64", "format", "byte 24: general.alignment is not a u32", gguf([kv("general.alignment", U64, 32)]))
case("alignment_array", "format", "general.alignment is not a u32", gguf([arr("general.alignment", U32, [32])]))

# ---- tensor infos
ONE = Tensor("a", [4])


def bare(infos, n=1, data=bytes(64)):
    """Tensor infos given as bytes, with data behind them."""
    head = gguf(n_tensors=n) + infos
    return head + bytes(-len(head) % 32) + data


def tinfo(name="a", dims=(4,), type=T_F32, offset=0, n=None):
    name = name if isinstance(name, bytes) else text(name)
    return name + u32(len(dims) if n is None else n) + b"".join(u64(d) for d in dims) + u32(type) + u64(offset)


case("tensor_cut", "format", "the file ends before the offset of a tensor", bare(tinfo(), data=b"")[:24 + 28])
case("name_2_63", "format", "byte 24: the name of a tensor is a string of 9223372036854775808", bare(tinfo(text("a", HUGE))))
case("name_empty", "format", "byte 24: the name of a tensor has 0 bytes", bare(tinfo("")))
case("name_long", "format", "byte 24: the name of a tensor has 256 bytes", bare(tinfo("a" * 256)))
case("name_nul", "format", "byte 24: the name of a tensor holds the byte 0x00", bare(tinfo("a\0")))
case("dims_5", "format", "byte 33: tensor a: 5 dimensions; at most 4", bare(tinfo(dims=(1, 1, 1, 1, 1))))
case("dims_2_32", "format", "tensor a: 4294967295 dimensions", bare(tinfo(n=0xFFFFFFFF)))
case("dim_0", "format", "byte 37: tensor a: a dimension of 0", bare(tinfo(dims=(0,))))
case("dim_2_63", "format", "byte 45: tensor a: a dimension of 9223372036854775808", bare(tinfo(dims=(1, HUGE))))
case("dims_overflow", "format", "tensor a: the product of its dimensions overflows", bare(tinfo(dims=(1 << 32, 1 << 32))))
case("dims_overflow_to_4", "format", "tensor a: the product of its dimensions overflows",
     bare(tinfo(dims=(1 << 32, (1 << 32) + 1))))
case("size_overflow", "format", "tensor a: its size overflows", bare(tinfo(dims=(1 << 62,))))
case("tensor_type_removed", "unsupported", "tensor a has the unknown type 4", bare(tinfo(type=4)))
case("tensor_type_99", "unsupported", "tensor a has the unknown type 99", bare(tinfo(type=99)))
case("row_33", "format", "tensor a: rows of 33 elements are not whole blocks of 32 (Q4_0)",
     bare(tinfo(dims=(33, 32), type=T_Q4_0)))
case("offset_unaligned", "format", "tensor a: offset 8 is not a multiple of the alignment 32", bare(tinfo(offset=8)))
case("offset_beyond", "format", "tensor a: 16 bytes at 128 of the data, which has 64", bare(tinfo(offset=128)))
case("offset_2_63", "format", "tensor a: 16 bytes at 9223372036854775808 of the data", bare(tinfo(offset=HUGE)))
case("data_cut", "format", "tensor a: 80 bytes at 0 of the data, which has 64; the file is cut short", bare(tinfo(dims=(20,))))
case("data_missing", "format", "tensor a: 16 bytes at 0 of the data, which has 0", bare(tinfo(), data=b""))
case("overlap", "format", "tensors a and b overlap", bare(tinfo(dims=(12,)) + tinfo("b", offset=32), 2))
case("overlap_same", "format", "tensors a and b overlap", bare(tinfo() + tinfo("b"), 2, bytes(32)))
case("hole", "format", "belong to no tensor", bare(tinfo() + tinfo("b", offset=64), 2, bytes(96)))
case("trailing", "format", "bytes behind the last tensor", bare(tinfo()))
case("trailing_no_tensors", "format", "bytes behind the last tensor", gguf([NAME]) + bytes(64))
case("tensor_twice", "format", "tensor a is there twice", bare(tinfo() + tinfo(offset=32), 2))

# ---- split models
S1, S2 = "model-00001-of-00002.gguf", "model-00002-of-00002.gguf"


def part(no, count, tensors, more=()):
    return gguf([kv("split.no", U16, no), kv("split.count", U16, count)] + list(more), tensors)


case("split_later", "format", "file 2 of a split model; open its first file", part(1, 2, [ONE]))
case("split_count_text", "format", "byte 24: split.count is not a non-negative integer", gguf([kv("split.count", STR, "2")]))
case("split_count_huge", "unsupported", "split.count is 65535; at most", part(0, 65535, [ONE]))
case("split_name", "format", "model.gguf: a model in 2 files; their names must end in", part(0, 2, [ONE]))
case("split_missing", "input", S2, part(0, 2, [ONE]), S1)
case("split_wrong_no", "format", "says that it is file 1 of 2, not 2 of 2", part(0, 2, [ONE]), S1, **{S2: part(0, 2, [Tensor("b", [4])])})
case("split_wrong_count", "format", "says that it is file 2 of 3, not 2 of 2", part(0, 2, [ONE]), S1,
     **{S2: part(1, 3, [Tensor("b", [4])])})
case("split_no_numbers", "format", "says that it is file 0 of -1, not 2 of 2", part(0, 2, [ONE]), S1,
     **{S2: gguf([], [Tensor("b", [4])])})
case("split_differs", "format", "general.name is not what the first file says", part(0, 2, [ONE], [NAME]), S1,
     **{S2: part(1, 2, [Tensor("b", [4])], [kv("general.name", STR, "y")])})
case("split_tensor_twice", "format", "tensor a is there twice, in", part(0, 2, [ONE]), S1, **{S2: part(1, 2, [ONE])})
case("split_tensors_count", "format", "split.tensors.count is 5; the files hold 1 tensors",
     gguf([kv("split.tensors.count", I32, 5)], [ONE]))

# ---- whole files, but no model
VALUES = {
    "general.architecture": (STR, "llama"),
    "llama.block_count": (U32, 1),
    "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, 8),
    "llama.feed_forward_length": (U32, 8),
    "llama.attention.head_count": (U32, 2),
    "llama.attention.head_count_kv": (U32, 1),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
}
L0 = "blk.0."
TENSORS = {
    "token_embd.weight": [8, 4], "output_norm.weight": [8], "output.weight": [8, 4],
    L0 + "attn_norm.weight": [8], L0 + "attn_q.weight": [8, 8], L0 + "attn_k.weight": [8, 4],
    L0 + "attn_v.weight": [8, 4], L0 + "attn_output.weight": [8, 8], L0 + "ffn_norm.weight": [8],
    L0 + "ffn_gate.weight": [8, 8], L0 + "ffn_up.weight": [8, 8], L0 + "ffn_down.weight": [8, 8],
}


def model(name, status, message, values=(), tensors=(), drop=()):
    """values: key -> (type, value), a list in the place of value for an array; tensors: name -> dims or
    Tensor."""
    v = {k: x for k, x in (VALUES | dict(values)).items() if k not in drop}
    t = {k: x for k, x in (TENSORS | dict(tensors)).items() if k not in drop}
    case("model_" + name, status, message,
         gguf([arr(k, ty, x) if isinstance(x, list) else kv(k, ty, x) for k, (ty, x) in v.items()],
              [x if isinstance(x, Tensor) else Tensor(k, x) for k, x in t.items()]))


model("no_architecture", "format", "general.architecture is missing", drop=["general.architecture"])
model("architecture_number", "format", "general.architecture must be a string, not u32", {"general.architecture": (U32, 1)})
model("architecture_array", "format", "general.architecture must be a string, not an array of string",
      {"general.architecture": (STR, ["llama"])})
model("architecture_unknown", "unsupported", 'general.architecture "mamba" is not one', {"general.architecture": (STR, "mamba")})
model("key_missing", "format", "llama.block_count: missing", drop=["llama.block_count"])
model("key_unknown", "unsupported", "llama.attention.sparsity: not an entry of the llama architecture",
      {"llama.attention.sparsity": (F32, 0.5)})
model("layers_millions", "format", "llama.block_count: out of range", {"llama.block_count": (U32, 5000000)})
model("layers_2_63", "format", "llama.block_count: must be an integer, not u64", {"llama.block_count": (U64, HUGE)})
model("layers_negative", "format", "llama.block_count: out of range", {"llama.block_count": (I32, -1)})
model("layers_text", "format", "llama.block_count: must be an integer, not string", {"llama.block_count": (STR, "1")})
model("layers_array", "format", "llama.block_count: must be an integer, not an array of u32", {"llama.block_count": (U32, [1])})
model("heads_zero", "format", "llama.attention.head_count: out of range", {"llama.attention.head_count": (U32, 0)})
model("heads_differ", "unsupported", "llama.attention.head_count_kv: layers that differ (1 and 2)",
      {"llama.block_count": (U32, 2), "llama.attention.head_count_kv": (U32, [1, 2])})
model("heads_array_long", "format", "llama.attention.head_count_kv: has 3 values for 1 layers",
      {"llama.attention.head_count_kv": (U32, [1, 1, 1])})
model("heads_array_empty", "format", "llama.attention.head_count: has 0 values for 1 layers",
      {"llama.attention.head_count": (U32, [])})
model("heads_not_dividing", "format", "llama.attention.head_count_kv: must divide", {"llama.attention.head_count_kv": (U32, 3)})
model("width_not_divisible", "format", "llama.attention.head_count: must divide the embedding length",
      {"llama.attention.head_count": (U32, 3)})
model("head_odd", "format", "llama.attention.key_length: must be even", {"llama.attention.key_length": (U32, 3)})
model("value_length", "unsupported", "llama.attention.value_length: is 6 where heads have 4", {"llama.attention.value_length": (U32, 6)})
model("partial_rope", "unsupported", "llama.rope.dimension_count: is 2 where heads have 4", {"llama.rope.dimension_count": (U32, 2)})
model("rope_longrope", "unsupported", 'llama.rope.scaling.type: "longrope" is not supported',
      {"llama.rope.scaling.type": (STR, "longrope"), "llama.rope.scaling.factor": (F32, 2.0)})
model("rope_type_number", "format", "llama.rope.scaling.type: must be a string, not u32", {"llama.rope.scaling.type": (U32, 1)})
model("rope_no_factor", "format", "llama.rope.scaling.factor: missing", {"llama.rope.scaling.type": (STR, "yarn")})
model("rope_factor_zero", "format", "llama.rope.scaling.factor: out of range", {"llama.rope.scaling.factor": (F32, 0.0)})
model("rope_attn_factor", "unsupported", "llama.rope.scaling.attn_factor: is not supported without yarn",
      {"llama.rope.scaling.attn_factor": (F32, 2.0)})
model("theta_nan", "format", "llama.rope.freq_base: out of range", {"llama.rope.freq_base": (F32, float("nan"))})
model("theta_integer", "format", "llama.rope.freq_base: must be a number, not u32", {"llama.rope.freq_base": (U32, 10000)})
model("eps_inf", "format", "llama.attention.layer_norm_rms_epsilon: out of range",
      {"llama.attention.layer_norm_rms_epsilon": (F32, float("inf"))})
model("experts", "unsupported", "llama.expert_count: models that set this", {"llama.expert_count": (U32, 8)})
model("vocab_mismatch", "format", "tensor token_embd.weight has shape [4, 8]; the metadata asks for [3, 8]",
      {"tokenizer.ggml.tokens": (STR, ["a", "b", "c"])})
model("no_vocab", "format", "neither a vocabulary nor a token embedding", drop=["token_embd.weight"])
model("vocab_only", "format", "tensor token_embd.weight is missing", {"tokenizer.ggml.tokens": (STR, ["a"])}, drop=list(TENSORS))
model("tensor_missing", "format", "tensor blk.0.ffn_up.weight is missing", drop=[L0 + "ffn_up.weight"])
model("tensor_extra", "unsupported", "tensor blk.0.ffn_gate_inp.weight has no place", tensors={L0 + "ffn_gate_inp.weight": [8, 4]})
model("layer_extra", "unsupported", "tensor blk.1.ffn_norm.weight has no place", tensors={"blk.1.ffn_norm.weight": [8]})
model("layer_missing", "format", "tensor blk.1.attn_norm.weight is missing", {"llama.block_count": (U32, 2)})
model("bias_missing", "format", "tensor blk.0.attn_k.bias is missing", tensors={L0 + "attn_q.bias": [8]})
model("transposed", "format", "tensor blk.0.attn_k.weight has shape [8, 4]; the metadata asks for [4, 8]",
      tensors={L0 + "attn_k.weight": [4, 8]})
model("flat", "format", "has shape [64]; the metadata asks for [8, 8]", tensors={L0 + "attn_q.weight": [64]})
WIDE = {"llama.embedding_length": (U32, 256), "llama.attention.head_count": (U32, 64)}
model("type_q2_k", "unsupported", "tensor token_embd.weight is stored as Q2_K", WIDE,
      {"token_embd.weight": Tensor("token_embd.weight", [256, 4], bytes(84 * 4), T_Q2_K)})
model("type_vector", "unsupported", "tensor output_norm.weight is a vector stored as Q8_0",
      {"llama.embedding_length": (U32, 32), "llama.attention.head_count": (U32, 8)},
      {"token_embd.weight": [32, 4], "output_norm.weight": Tensor("output_norm.weight", [32], bytes(34), T_Q8_0)})

# ---- other families: one layer of width 8, two heads of four, a vocabulary of four
SIZES = {"block_count": (U32, 1), "context_length": (U32, 64), "embedding_length": (U32, 8),
         "feed_forward_length": (U32, 8), "attention.head_count": (U32, 2)}
RMS = {"attention.layer_norm_rms_epsilon": (F32, 1e-5)}
LAYER = {"attention.layer_norm_epsilon": (F32, 1e-5)}
OUTER = {"token_embd.weight": [8, 4], "output_norm.weight": [8]}
NORMS = {L0 + "attn_norm.weight": [8], L0 + "ffn_norm.weight": [8]}
SPLIT = {L0 + "attn_q.weight": [8, 8], L0 + "attn_k.weight": [8, 8], L0 + "attn_v.weight": [8, 8]}
FUSED = {L0 + "attn_qkv.weight": [8, 24]}
REST = {L0 + "attn_output.weight": [8, 8], L0 + "ffn_down.weight": [8, 8]}
MLP = {L0 + "ffn_up.weight": [8, 8]}
GATED = MLP | {L0 + "ffn_gate.weight": [8, 8]}
GEMMA_NORMS = {L0 + "attn_q_norm.weight": [4], L0 + "attn_k_norm.weight": [4],
               L0 + "post_attention_norm.weight": [8], L0 + "post_ffw_norm.weight": [8]}
FAMILIES = {
    "qwen2": (SIZES | RMS, OUTER | NORMS | SPLIT | REST | GATED),
    "gemma3": (SIZES | RMS, OUTER | NORMS | SPLIT | REST | GATED | GEMMA_NORMS),
    "phi3": (SIZES | RMS, OUTER | NORMS | FUSED | REST | {L0 + "ffn_up.weight": [8, 16]}),
    "qwen": (SIZES | RMS, OUTER),
    "stablelm": (SIZES | LAYER | {"rope.dimension_count": (U32, 2)},
                 OUTER | NORMS | SPLIT | REST | GATED | {"output_norm.bias": [8], L0 + "attn_norm.bias": [8],
                                                         L0 + "ffn_norm.bias": [8]}),
    "falcon": (SIZES | LAYER, OUTER | {L0 + "attn_norm.weight": [8], L0 + "attn_norm.bias": [8], "output_norm.bias": [8]}
               | FUSED | REST | MLP),
    "gptneox": (SIZES | LAYER | {"rope.dimension_count": (U32, 2), "use_parallel_residual": (BOOL, True)}, OUTER),
    "mpt": (SIZES | LAYER | {"attention.max_alibi_bias": (F32, 8.0)}, OUTER | NORMS | FUSED | REST | MLP),
    "gpt2": (SIZES | LAYER, OUTER),
}


def family(arch, name, status, message, values=(), tensors=(), drop=()):
    v, t = FAMILIES[arch]
    v = {arch + "." + k: x for k, x in (v | dict(values)).items() if k not in drop}
    v["general.architecture"] = (STR, arch)
    t = {k: x for k, x in (t | dict(tensors)).items() if k not in drop}
    case(f"model_{arch}_{name}", status, message,
         gguf([arr(k, ty, x) if isinstance(x, list) else kv(k, ty, x) for k, (ty, x) in v.items()],
              [Tensor(k, x) for k, x in t.items()]))


WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
family("qwen2", "bias_missing", "format", "tensor blk.0.attn_v.bias is missing",
       tensors={L0 + "attn_q.bias": [8], L0 + "attn_k.bias": [8]})
family("qwen2", "partial_rope", "unsupported", "qwen2.rope.dimension_count: is 2 where heads have 4", {"rope.dimension_count": (U32, 2)})
family("qwen2", "key_of_another", "unsupported", "qwen2.attention.sliding_window: not an entry of the qwen2", {WINDOW: (U32, 4)})
family("qwen2", "not_causal", "unsupported", "qwen2.attention.causal: models that are false here", {"attention.causal": (BOOL, False)})
family("qwen2", "causal_number", "format", "qwen2.attention.causal: must be a bool, not u32", {"attention.causal": (U32, 1)})
family("gemma3", "window_text", "format", "gemma3.attention.sliding_window: must be an integer, not string", {WINDOW: (STR, "512")})
family("gemma3", "window_negative", "format", "gemma3.attention.sliding_window: out of range", {WINDOW: (I32, -1)})
family("gemma3", "window_array", "format", "gemma3.attention.sliding_window: must be an integer, not an array", {WINDOW: (U32, [4])})
family("gemma3", "window_missing", "format", "gemma3.attention.sliding_window: missing: there are layers with a window",
       {PATTERN: (BOOL, [True])})
family("gemma3", "pattern_zero", "format", "gemma3.attention.sliding_window_pattern: out of range", {PATTERN: (U32, 0), WINDOW: (U32, 4)})
family("gemma3", "pattern_long", "format", "gemma3.attention.sliding_window_pattern: has 2 values for 1 layers",
       {PATTERN: (BOOL, [True, False]), WINDOW: (U32, 4)})
family("gemma3", "pattern_texts", "format", "gemma3.attention.sliding_window_pattern: must be an integer or an array of bools",
       {PATTERN: (STR, ["local"]), WINDOW: (U32, 4)})
family("gemma3", "pattern_text", "format", "gemma3.attention.sliding_window_pattern: must be an integer, not string",
       {PATTERN: (STR, "local"), WINDOW: (U32, 4)})
family("gemma3", "theta_nan", "format", "gemma3.rope.freq_base_swa: out of range", {"rope.freq_base_swa": (F32, float("nan"))})
family("gemma3", "softcap_zero", "format", "gemma3.final_logit_softcapping: out of range", {"final_logit_softcapping": (F32, 0.0)})
family("gemma3", "norm_missing", "format", "tensor blk.0.post_ffw_norm.weight is missing", drop=[L0 + "post_ffw_norm.weight"])
family("gemma3", "norm_wide", "format", "tensor blk.0.attn_q_norm.weight has shape [8]; the metadata asks for [4]",
       tensors={L0 + "attn_q_norm.weight": [8]})
family("phi3", "longrope", "unsupported", "tensor rope_factors_long.weight: longrope",
       tensors={"rope_factors_long.weight": [2], "rope_factors_short.weight": [2]})
family("phi3", "longrope_named", "unsupported", 'phi3.rope.scaling.type: "longrope" is not supported', {"rope.scaling.type": (STR, "longrope")})
family("phi3", "attn_factor", "unsupported", "phi3.rope.scaling.attn_factor: is not supported without yarn", {"rope.scaling.attn_factor": (F32, 1.19)})
family("phi3", "rope_odd", "format", "phi3.rope.dimension_count: must turn an even number", {"rope.dimension_count": (U32, 3)})
family("phi3", "rope_wide", "format", "phi3.rope.dimension_count: must turn an even number", {"rope.dimension_count": (U32, 6)})
family("phi3", "split", "format", "tensor blk.0.attn_qkv.weight is missing", tensors=SPLIT, drop=[L0 + "attn_qkv.weight"])
family("phi3", "gate_short", "format", "tensor blk.0.ffn_up.weight has shape [8, 8]; the metadata asks for [16, 8]", tensors=MLP)
family("qwen", "narrow", "format", "qwen.feed_forward_length: out of range", {"feed_forward_length": (U32, 1)})
family("stablelm", "no_rope", "format", "stablelm.rope.dimension_count: missing", drop=["rope.dimension_count"])
family("stablelm", "half_a_norm", "format", "tensor blk.0.ffn_norm.bias is missing", drop=[L0 + "ffn_norm.bias"])
family("falcon", "bias", "unsupported", "tensor blk.0.attn_qkv.bias has no place", tensors={L0 + "attn_qkv.bias": [24]})
family("falcon", "norms", "format", "tensor blk.0.attn_norm_2.bias has shape [4]",
       tensors={L0 + "attn_norm_2.weight": [8], L0 + "attn_norm_2.bias": [4]})
family("falcon", "serial", "unsupported", "tensor blk.0.ffn_norm.weight has no place", tensors={L0 + "ffn_norm.weight": [8]})
family("falcon", "heads", "format", "tensor blk.0.attn_qkv.weight has shape [24, 8]; the metadata asks for [16, 8]",
       {"attention.head_count_kv": (U32, 1)})
family("gptneox", "parallel_missing", "format", "gptneox.use_parallel_residual: missing", drop=["use_parallel_residual"])
family("gptneox", "parallel_number", "format", "gptneox.use_parallel_residual: must be a bool, not u32", {"use_parallel_residual": (U32, 1)})
family("gptneox", "no_rope", "format", "gptneox.rope.dimension_count: missing", drop=["rope.dimension_count"])
family("mpt", "no_alibi", "format", "mpt.attention.max_alibi_bias: missing", drop=["attention.max_alibi_bias"])
family("mpt", "alibi_zero", "format", "mpt.attention.max_alibi_bias: out of range", {"attention.max_alibi_bias": (F32, 0.0)})
family("mpt", "clamp_zero", "format", "mpt.attention.clamp_kqv: out of range", {"attention.clamp_kqv": (F32, 0.0)})
family("mpt", "clamp_text", "format", "mpt.attention.clamp_kqv: must be a number, not string", {"attention.clamp_kqv": (STR, "6")})
family("mpt", "qk_norm", "format", "tensor blk.0.attn_k_norm.weight is missing", tensors={L0 + "attn_q_norm.weight": [8]})
family("mpt", "qk_norm_head", "format", "tensor blk.0.attn_q_norm.weight has shape [4]; the metadata asks for [8]",
       tensors={L0 + "attn_q_norm.weight": [4], L0 + "attn_k_norm.weight": [4]})
family("mpt", "rope", "unsupported", "mpt.rope.freq_base: not an entry of the mpt", {"rope.freq_base": (F32, 10000.0)})
family("gpt2", "positions_short", "format", "tensor position_embd.weight has shape [32, 8]; the metadata asks for [64, 8]",
       tensors={"position_embd.weight": [8, 32]})
print(len(os.listdir(OUT)), "cases")
