#!/usr/bin/env python3
"""Makes the real tokenizers of the families, as their authors publish them, with the ids that the libraries give for
texts of many kinds: what `test_tok_random` compares with when BASIN_FAMILY_TOKS names the folder.

    pip install tokenizers==0.21.4 tiktoken==0.14.0
    tools/get-ggml-vocabs VOCABS     # 90 MB: the vocabularies, and qwen.tiktoken
    tools/mkfamtok.py VOCABS OUT TEXT.txt
    tools/mkfamtok.py --small        # the same with small vocabularies, into tests/data/tok

Vocabulary and merges come from VOCABS; normalizer, pre-tokenizer, added tokens, post-processor and decoder are written
down here as the family's tokenizer.json has them.
"""
import base64
import json
import os
import random
import struct
import sys
import unicodedata

from tokenizers import Tokenizer

import mktok

BAR = "▁"
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def read_gguf(path):
    with open(path, "rb") as f:
        data = f.read()
    at = 24
    out = {}

    def number(fmt):
        nonlocal at
        v, = struct.unpack_from(fmt, data, at)
        at += struct.calcsize(fmt)
        return v

    def value(kind):
        nonlocal at
        if kind == 8:
            n = number("<Q")
            at += n
            return data[at - n:at].decode("utf-8", "surrogateescape")
        if kind == 9:
            kind, n = number("<I"), number("<Q")
            return [value(kind) for _ in range(n)]
        return number(FORMATS[kind])

    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key = value(8)
        out[key.removeprefix("tokenizer.ggml.")] = value(number("<I"))
    return out


def byte_level(**fields):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, **fields}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def template(token, i):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}}}


def replace(a, b):
    return {"type": "Replace", "pattern": {"String": a}, "content": b}


BYTES = byte_level()
WORDS = byte_level(use_regex=False)
TO_TEXT = [replace(BAR, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
SPM = (sequence("normalizers", {"type": "Prepend", "prepend": BAR}, replace(" ", BAR)), None,
       sequence("decoders", *TO_TEXT, {"type": "Strip", "content": " ", "start": 1, "stop": 0}))

# family: (vocabulary, normalizer, pre-tokenizer, decoder, ignore_merges, BOS of the post-processor)
FAMILIES = {
    "gpt2": ("gpt-2", None, BYTES, BYTES, False, None),
    "gpt_neox": ("gpt-neox", {"type": "NFC"}, BYTES, BYTES, False, None),  # Pythia and StableLM 1 as well
    "mpt": ("mpt", {"type": "NFC"}, BYTES, BYTES, False, None),
    "falcon": ("falcon", None, sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, BYTES,
                                        {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")),
               BYTES, False, None),
    "qwen2": ("qwen2", {"type": "NFC"}, sequence("pretokenizers", split(mktok.GPT4 % ""), WORDS), BYTES, False, None),
    "stablelm2": ("qwen2", {"type": "NFC"}, sequence("pretokenizers", split(mktok.GPT4 % "", "Removed", True), WORDS), BYTES, False, None),
    "llama3": ("llama-bpe", None, sequence("pretokenizers", split(mktok.GPT4 % "{1,3}"), WORDS), BYTES, True, "<|begin_of_text|>"),
    "llama2": ("llama-spm", *SPM, False, "<s>"),
    "phi3": ("phi-3", *SPM, False, "<s>"),
    "gemma": ("gemma-4", replace(" ", BAR),
              {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
              sequence("decoders", *TO_TEXT), False, "<bos>"),
}


def merges_of_scores(tokens, scores):
    """As transformers writes a SentencePiece model down as merges: of two merges that make the same token, or tokens
    of one score, the one whose halves have the lower ids or lengths comes first."""
    ids = {t: i for i, t in enumerate(tokens)}
    merges = []
    for t, score in zip(tokens, scores):
        local = [(ids[t[:k]], ids[t[k:]], k, t) for k in range(1, len(t)) if t[:k] in ids and t[k:] in ids]
        merges += [(t[:k], t[k:], score) for _, _, k, t in sorted(local)]
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [[a, b] for a, b, _ in merges]


def added_tokens(name, vocab):
    kinds, out = vocab["token_type"], []
    for i, (text, kind) in enumerate(zip(vocab["tokens"], kinds)):
        special = kind == 3 or (i <= 2 and name in ("llama2", "phi3"))
        # Runs of spaces and of newlines, tags of HTML: Gemma lists them besides having merges for them.
        listed = name == "gemma" and 107 <= i <= 250
        if text.startswith("[PAD") or not (special or kind == 4 or listed):
            continue
        blank = not text.strip(" ") and name in ("gpt_neox", "mpt")
        out.append(added_token(i, text, special, blank, name == "phi3" and i >= 32001))
    return out


def document(name, added, vocab, merges, bos_id):
    """What stands in tokenizer.json."""
    _, normalizer, pre, decoder, ignore, bos = FAMILIES[name]
    chars = bos is not None and not ignore
    post = byte_level(trim_offsets=False)
    if bos:
        post = template(bos, bos_id) if chars else sequence("processors", post, template(bos, bos_id))
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre, "post_processor": post, "decoder": decoder,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>" if chars else None, "continuing_subword_prefix": None if chars else "",
                  "end_of_word_suffix": None if chars else "", "fuse_unk": chars, "byte_fallback": chars, "ignore_merges": ignore,
                  "vocab": vocab, "merges": merges}}


def added_token(i, content, special=True, normalized=False, rstrip=False):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": normalized,
            "special": special}


def family(name, vocabs):
    source, _, _, _, ignore, bos = FAMILIES[name]
    v = read_gguf(os.path.join(vocabs, "ggml-vocab-%s.gguf" % source))
    chars = bos is not None and not ignore
    n_pads = sum(t.startswith("[PAD") for t in v["tokens"])
    vocab = {t: i for i, t in enumerate(v["tokens"][:len(v["tokens"]) - n_pads])}
    added = added_tokens(name, v)
    inside = set(v["tokens"]) if chars or name in ("falcon", "gpt_neox", "mpt") else {t for t, k in zip(v["tokens"], v["token_type"]) if k == 1}
    if name in ("gpt_neox", "mpt"):  # its runs of spaces stand behind the vocabulary
        inside -= {a["content"] for a in added if a["normalized"]}
    if name in ("llama2", "phi3"):
        inside -= {t for t in v["tokens"][32000:]}
    merges = [m.split(" ", 1) for m in v["merges"]] if "merges" in v else merges_of_scores(v["tokens"][:32000], v["scores"])
    return document(name, added, {t: i for t, i in vocab.items() if t in inside}, merges, vocab.get(bos))


# name: (whose vocabulary, tokens added: text, special, normalized, rstrip)
SMALL = {
    "gpt_neox": ("gpt2", [("<|padding|>", True, False, False)] + [(" " * n, False, True, False) for n in range(24, 1, -1)]),
    "stablelm2": ("qwen2", [("<|im_start|>", True, False, False), ("<|im_end|>", False, False, False)]),
    "phi3": ("llama2", [("<s>", True, False, False), ("</s>", False, False, True), ("<|assistant|>", True, False, True),
                        ("<|end|>", True, False, True)]),
    "gaps": ("falcon", []),
    "gemma3": ("gemma", [("<bos>", True, False, False), ("\n\n\n", False, False, False), (BAR * 2, False, False, False),
                         (BAR * 3, False, True, False), ("<table>", False, False, False), ("<start_of_turn>", True, False, False)]),
}


def small(name, folder):
    base, added = SMALL[name]
    with open(os.path.join(folder, base, "tokenizer.json"), encoding="utf-8") as f:
        data = json.load(f)
    vocab, merges = data["model"]["vocab"], data["model"]["merges"]
    out = [a for a in data["added_tokens"] if a["id"] == 0]
    if name == "gaps":  # as Falcon's own vocabulary, which lacks many bytes
        used = {half for m in merges for half in m}
        gone = {t for t in vocab if len(t) == 1 and t not in used and not t.isascii()}
        vocab = {t: i for i, t in enumerate(t for t in sorted(vocab, key=vocab.get) if t not in gone)}
    n = len(vocab)
    for text, *flags in added:
        out.append(added_token(vocab.get(text, n), text, *flags))
        n += text not in vocab
    bos = {a["content"]: a["id"] for a in out}
    kind = {"gemma3": "gemma", "gaps": "falcon"}.get(name, name)
    return document(kind, out, vocab, merges, bos.get(FAMILIES[kind][5]))


def texts(path):
    """Those of tests/data/tok, and random Unicode of three kinds."""
    rng = random.Random(5)
    planes = [c for c in range(1, 0x32000) if not 0xD800 <= c < 0xE000]
    assigned = [c for c in planes if unicodedata.category(chr(c)) not in ("Cn", "Co")]
    out = ["".join(t * n for t, n in s) if isinstance(s, list) else s for s in mktok.texts(path)]
    for i in range(150):
        pool = planes if i % 3 == 0 else assigned
        n = rng.randrange(1, 200)
        out.append(mktok.random_text(rng, n, pool) if i % 3 < 2 else "".join(chr(rng.choice(pool)) for _ in range(n)))
    return out


def write(path, data):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))


def write_ids(folder, ids):
    write(os.path.join(folder, "ids.json"), [i if len(i) <= 100 else mktok.fnv(i) for i in ids])


def qwen(ranks):
    """Qwen 1's own code, in short: the pattern, the names and the order of its special tokens, NFC."""
    import tiktoken
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + ["<|extra_%d|>" % i for i in range(205)]
    return tiktoken.Encoding("Qwen", pat_str=mktok.GPT4 % "", mergeable_ranks=ranks,
                             special_tokens={t: len(ranks) + i for i, t in enumerate(names)})


def as_bytes(token):
    """The bytes of a byte-level token: GPT-2's table the other way round."""
    plain = [b for b in range(256) if 33 <= b < 127 or 161 <= b < 256 and b != 173]
    byte = {chr(b): b for b in plain}
    byte.update((chr(256 + i), b) for i, b in enumerate(b for b in range(256) if b not in plain))
    return bytes(byte[c] for c in token)


def write_qwen(folder, data, samples):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "qwen.tiktoken"), "wb") as f:
        f.write(data)
    t = qwen({base64.b64decode(a): int(b) for a, b in (line.split() for line in data.splitlines() if line)})
    write_ids(folder, [t.encode(unicodedata.normalize("NFC", s), allowed_special="all") for s in samples])


def record(folder, data, samples):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "tokenizer.json")
    write(path, data)
    t = Tokenizer.from_file(path)
    write_ids(folder, [t.encode(s, add_special_tokens=False).ids for s in samples])
    print(folder, t.get_vocab_size(), flush=True)


def main_small(folder="tests/data/tok"):
    with open(os.path.join(folder, "texts.json"), encoding="utf-8") as f:
        samples = ["".join(t * n for t, n in s) if isinstance(s, list) else s for s in json.load(f)]
    for name in SMALL:
        record(os.path.join(folder, name), small(name, folder), samples)
    with open(os.path.join(folder, "qwen2", "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    lines = [b"%s %d\n" % (base64.b64encode(b), i) for i, b in enumerate(as_bytes(t) for t in sorted(vocab, key=vocab.get)
                                                                       if not t.startswith("<|"))]
    write_qwen(os.path.join(folder, "qwen"), b"".join(lines), samples)


def main():
    if sys.argv[1:] == ["--small"]:
        return main_small()
    vocabs, target, source = sys.argv[1:4]
    os.makedirs(target, exist_ok=True)
    samples = texts(source)
    write(os.path.join(target, "texts.json"), samples)
    for name in FAMILIES:
        if sys.argv[4:] and name not in sys.argv[4:]:
            continue
        record(os.path.join(target, name), family(name, vocabs), samples)
    with open(os.path.join(vocabs, "qwen.tiktoken"), "rb") as f:
        write_qwen(os.path.join(target, "qwen"), f.read(), samples)


if __name__ == "__main__":
    main()
