#!/usr/bin/env python3
"""Makes tests/data/invalid/ggufvocab: GGUF vocabularies with one thing wrong each, and how they fail.

    tools/mkggufvocab.py tests/data/invalid/ggufvocab

CASE/input.gguf   the file       CASE/error   the name of the error's class, and a part of its message
"""
import os
import struct
import sys


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def array(kind, items):
    form = {4: "I", 5: "i", 6: "f", 0: "B", 10: "Q"}
    body = b"".join(text(x) if kind == 8 else struct.pack("<" + form[kind], x) for x in items)
    return struct.pack("<IIQ", 9, kind, len(items)) + body


def value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    return v  # packed already


def gguf(entries):
    body = b"".join(text("tokenizer.ggml." + k) + value(v) for k, v in entries.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + body


def byte_names():
    """The characters that stand for bytes in byte-level models."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, more = [], 256
    for b in range(256):
        names.append(chr(b if b in plain else more))
        more += b not in plain
    return names


BYTES = byte_names() + ["th", "the", "<|end|>"]
GPT2 = {"model": "gpt2", "pre": "gpt-2", "tokens": array(8, BYTES), "token_type": array(5, [1] * 258 + [3]),
        "merges": array(8, ["t h", "th e"]), "bos_token_id": 258, "eos_token_id": 258}
PIECES = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + ["▁", "a", "b", "ab", "▁a"]
KINDS = [2, 3, 3] + [6] * 256 + [1] * 5
SCORES = [0.0] * 259 + [-9.0, -8.0, -7.0, -1.0, -2.0]
LLAMA = {"model": "llama", "tokens": array(8, PIECES), "token_type": array(5, KINDS), "scores": array(6, SCORES),
         "bos_token_id": 1, "eos_token_id": 2}


def changed(base, **entries):
    out = {k: v for k, v in base.items() if k not in entries}
    out.update({k: v for k, v in entries.items() if v is not None})
    return out


def instead(items, i, x):
    return items[:i] + [x] + items[i + 1:]


CASES = {
    "model_missing": (changed(GPT2, model=None), "format", "no tokenizer.ggml.model"),
    "model_unknown": (changed(GPT2, model="bert"), "unsupported", 'tokenizer "bert" is not supported'),
    "model_number": (changed(GPT2, model=7), "format", "model: must be a string, not u32"),
    "pre_unknown": (changed(GPT2, pre="never-heard"), "unsupported", 'pre-tokenizer "never-heard" is not known'),
    "pre_bool": (changed(GPT2, pre=True), "format", "pre: must be a string, not bool"),
    "tokens_missing": (changed(GPT2, tokens=None), "format", "no tokenizer.ggml.tokens"),
    "tokens_numbers": (changed(GPT2, tokens=array(5, [1, 2, 3])), "format", "tokens: must be an array of strings, not an array of i32"),
    "tokens_scalar": (changed(GPT2, tokens="a"), "format", "tokens: must be an array of strings, not string"),
    "tokens_empty": (changed(GPT2, tokens=array(8, [])), "format", "tokens: 0 tokens"),
    "token_twice": (changed(GPT2, tokens=array(8, instead(BYTES, 257, "th"))), "format", 'tokens 256 and 257 are both "th"'),
    "token_utf8": (changed(GPT2, tokens=array(8, instead(BYTES, 257, b"a\xff"))), "format", "token 257 is not UTF-8"),
    "types_short": (changed(GPT2, token_type=array(5, [1] * 258)), "format", "token_type: 258 entries for 259 tokens"),
    "types_floats": (changed(GPT2, token_type=array(6, [1.0] * 259)), "format", "token_type: must be an array of integers, not an array of f32"),
    "merges_missing": (changed(GPT2, merges=None), "format", "no tokenizer.ggml.merges"),
    "merges_numbers": (changed(GPT2, merges=array(4, [1, 2])), "format", "merges: must be an array of strings, not an array of u32"),
    "merge_unknown": (changed(GPT2, merges=array(8, ["t h", "th xyz"])), "format", 'entry 1, "th xyz": one of the two is not in the vocabulary'),
    "merge_result": (changed(GPT2, merges=array(8, ["t h", "h t"])), "format", 'entry 1, "h t": its result is not in the vocabulary'),
    "merge_shape": (changed(GPT2, merges=array(8, ["th"])), "format", "entry 0 is not two tokens with a space between"),
    "bos_range": (changed(GPT2, bos_token_id=259), "format", "bos_token_id: id 259 is not one of 259 tokens"),
    "bos_huge": (changed(GPT2, bos_token_id=4294967295), "format", "bos_token_id: id 4294967295 is not one of 259 tokens"),
    "eos_text": (changed(GPT2, eos_token_id="</s>"), "format", "eos_token_id: must be an integer, not string"),
    "bos_none": (changed(GPT2, bos_token_id=None, add_bos_token=True), "format", "a BOS token is to be added"),
    "add_bos_number": (changed(GPT2, add_bos_token=1), "format", "add_bos_token: must be a bool, not u32"),
    "scores_missing": (changed(LLAMA, scores=None), "format", "no tokenizer.ggml.scores"),
    "scores_short": (changed(LLAMA, scores=array(6, SCORES[:-1])), "format", "scores: 263 entries for 264 tokens"),
    "scores_integers": (changed(LLAMA, scores=array(5, [0] * 264)), "format", "scores: must be an array of f32, not an array of i32"),
    "score_nan": (changed(LLAMA, scores=array(6, instead(SCORES, 260, float("nan")))), "format", "scores: that of token 260 is not finite"),
    "byte_large": (changed(LLAMA, tokens=array(8, instead(PIECES, 3, "<0x1FF>"))), "format", 'token 3 is to be a byte, but is "<0x1FF>"'),
    "byte_lower": (changed(LLAMA, tokens=array(8, instead(PIECES, 13, "<0x0a>"))), "format", 'token 13 is to be a byte, but is "<0x0a>"'),
    "byte_twice": (changed(LLAMA, tokens=array(8, instead(PIECES, 4, "<0x00>"))), "format", "tokens 3 and 4 are the same byte"),
    "piece_twice": (changed(LLAMA, tokens=array(8, instead(PIECES, 261, "a"))), "format", "tokens 260 and 261 are the same text"),
    "squeeze": (changed(LLAMA, remove_extra_whitespaces=True), "unsupported", "remove_extra_whitespaces: true is not supported"),
    "unk_range": (changed(LLAMA, unknown_token_id=264), "format", "unknown_token_id: id 264 is not one of 264 tokens"),
}


def main():
    for name, (entries, code, message) in CASES.items():
        folder = os.path.join(sys.argv[1], name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "input.gguf"), "wb") as f:
            f.write(gguf(entries))
        with open(os.path.join(folder, "error"), "w", encoding="utf-8") as f:
            f.write("%s\n%s\n" % (code, message))


if __name__ == "__main__":
    main()
