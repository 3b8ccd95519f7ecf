#!/usr/bin/env python3
"""Adds to tests/data/tok tokenizers of characters, with the ids that the libraries give for the texts
of tests/data/tok/texts.json (tools/mktok.py makes those).

    pip install tokenizers==0.21.4 sentencepiece==0.2.3
    tools/mksptok.py tests/data/tok TRAINING_TEXT.txt

NAME/tokenizer.json    BPE of characters as `tokenizers` reads it
NAME/tokenizer.model   SentencePiece: BPE, unigram
NAME/vocab.gguf        the same vocabularies as GGUF metadata; ids are those of the library it came from
"""
import io
import json
import os
import struct
import sys

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import mktok

N, P, D = normalizers, pre_tokenizers, decoders
BAR = "▁"
LLAMA = D.Sequence([D.Replace(BAR, " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
GEMMA = D.Sequence([D.Replace(BAR, " "), D.ByteFallback(), D.Fuse()])

# name: (size, normalizer, pre-tokenizer, decoder, unk, byte_fallback, fuse_unk, ignore_merges, added)
CHARS = {
    "llama2": (900, N.Sequence([N.Prepend(BAR), N.Replace(" ", BAR)]), None, LLAMA, "<unk>", True, True, False,
               [mktok.special("<s>"), mktok.special("</s>"), mktok.added("Yesterday"), mktok.added("raw", normalized=False)]),
    "metafirst": (700, None, P.Metaspace(prepend_scheme="first", split=True), D.Metaspace(prepend_scheme="first"), "<unk>",
                  False, False, False, [mktok.special("<s>"), mktok.special("<mask>", lstrip=True), mktok.added("Yesterday")]),
    "metaalways": (700, None, P.Metaspace(prepend_scheme="always", split=False), D.Metaspace(), "<unk>", True, False, True,
                   [mktok.special("<s>"), mktok.special("<sep>", rstrip=True)]),
    "metanever": (600, N.NFKC(), P.Metaspace(prepend_scheme="never", split=False), D.Metaspace(prepend_scheme="never"), None,
                  False, True, False, [mktok.special("<s>"), mktok.added("ÉTÉ")]),
    "gemma": (900, N.Replace(" ", BAR), P.Split(" ", "merged_with_previous"), GEMMA, "<unk>", True, True, False,
              [mktok.special("<s>"), mktok.added("\n\n", normalized=False), mktok.added(" " * 4, normalized=False)]),
    "fused": (500, N.Replace(" ", BAR), None, GEMMA, "<unk>", False, True, False, []),
    "plainchars": (600, N.Lowercase(), P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_previous")]), None, "<unk>",
                   False, True, True, [mktok.special("<s>")]),
}


def train_chars(config, lines):
    size, normalizer, pre, decoder, unk, fallback, fuse, ignore, added = config
    special = ([unk] if unk else []) + (["<0x%02X>" % b for b in range(256)] if fallback else [])
    t = Tokenizer(models.BPE(unk_token=unk, byte_fallback=fallback, fuse_unk=fuse, ignore_merges=ignore))
    spaced = not isinstance(normalizer, N.Lowercase)
    t.pre_tokenizer = P.Metaspace(split=True) if spaced else pre
    # Some words lack their characters: an alphabet smaller than that of the text.
    trainer = trainers.BpeTrainer(vocab_size=size, limit_alphabet=180, special_tokens=special, show_progress=False)
    t.train_from_iterator(lines, trainer)
    data = json.loads(t.to_str())
    data["added_tokens"] = []
    if spaced:  # runs of spaces, and pieces across words
        vocab, merges = data["model"]["vocab"], data["model"]["merges"]
        for left, right in ((BAR, BAR), (BAR * 2, BAR * 2), (BAR * 4, BAR * 4), ("e", BAR), ("e" + BAR, BAR + "t") if False else ("n", "\n")):
            if left in vocab and right in vocab and left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append([left, right])
    t = Tokenizer.from_str(json.dumps(data))
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre if pre is not None else P.Sequence([])
    if decoder is not None:
        t.decoder = decoder
    if unk:
        t.add_special_tokens([AddedToken(unk, special=True, normalized=False)])
    for k in added:
        (t.add_special_tokens if k.special else t.add_tokens)([k])
    data = json.loads(t.to_str())
    if pre is None:
        data["pre_tokenizer"] = None
    return data


PIECES = dict(unk_piece="[U]", bos_piece="[B]", eos_piece="[E]", pad_id=-1, character_coverage=0.999, num_threads=2,
              max_sentence_length=100000, minloglevel=2)
USER = ["<s>", "Yesterday", "word", "été"]
# name: settings of the trainer
SENTENCEPIECE = {
    "spbpe": dict(model_type="bpe", vocab_size=1200, byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "spbpenfkc": dict(model_type="bpe", vocab_size=900, user_defined_symbols=USER),
    "spbpeacross": dict(model_type="bpe", vocab_size=700, normalization_rule_name="identity", split_by_whitespace=False,
                        split_by_unicode_script=False, add_dummy_prefix=False, byte_fallback=True, user_defined_symbols=USER),
    "spunigram": dict(model_type="unigram", vocab_size=1000),
    "spunibytes": dict(model_type="unigram", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
                       remove_extra_whitespaces=False, user_defined_symbols=USER),
    "spuniacross": dict(model_type="unigram", vocab_size=700, normalization_rule_name="identity", split_by_whitespace=False,
                        split_by_unicode_script=False, add_dummy_prefix=False),
}


def train_sentencepiece(settings, lines):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **PIECES, **settings)
    return out.getvalue()


def gguf(entries):
    """A GGUF of metadata only; values are str, bool, int, or lists (of str, int, float)."""
    def text(s):
        b = s if isinstance(s, bytes) else s.encode()
        return struct.pack("<Q", len(b)) + b

    def value(v):
        if isinstance(v, bool):
            return struct.pack("<I?", 7, v)
        if isinstance(v, int):
            return struct.pack("<II", 4, v)
        if isinstance(v, float):
            return struct.pack("<If", 6, v)
        if isinstance(v, (str, bytes)):
            return struct.pack("<I", 8) + text(v)
        if isinstance(v, tuple):  # (type of the elements, packed values): for broken files
            return struct.pack("<IIQ", 9, v[0], v[1]) + v[2]
        kind = 8 if v and isinstance(v[0], (str, bytes)) else 6 if v and isinstance(v[0], float) else 5
        body = b"".join(text(x) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", x) for x in v)
        return struct.pack("<IIQ", 9, kind, len(v)) + body

    body = b"".join(text(k) + value(v) for k, v in entries.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + body


def gguf_of_sentencepiece(model):
    sp = spm.SentencePieceProcessor(model_proto=model)
    ids = range(sp.vocab_size())
    kind = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in ids]
    return gguf({"general.architecture": "llama", "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
                 "tokenizer.ggml.tokens": [sp.id_to_piece(i) for i in ids],
                 "tokenizer.ggml.scores": [float(sp.get_score(i)) for i in ids], "tokenizer.ggml.token_type": kind,
                 "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0})


def gguf_of_bytes(data, pre):
    """From a byte-level tokenizer.json."""
    tokens = {i: t for t, i in data["model"]["vocab"].items()}
    kind = dict.fromkeys(tokens, 1)
    for a in data["added_tokens"]:
        tokens[a["id"]], kind[a["id"]] = a["content"], 3 if a["special"] else 4
    order = sorted(tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    return gguf({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
                 "tokenizer.ggml.tokens": [tokens[i] for i in order], "tokenizer.ggml.token_type": [kind[i] for i in order],
                 "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0,
                 "tokenizer.ggml.add_bos_token": True})


def write(folder, name, data):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def write_ids(folder, ids):
    write(folder, "ids.json", [i if len(i) <= 100 else mktok.fnv(i) for i in ids])


def main():
    target, source = sys.argv[1:3]
    only = sys.argv[3:]
    with open(os.path.join(target, "texts.json"), encoding="utf-8") as f:
        samples = [s if isinstance(s, str) else "".join(t * n for t, n in s) for s in json.load(f)]
    lines = mktok.training_text(source)
    pieces = [line for text in lines for line in text.split("\n") if line]
    for name, config in CHARS.items():
        if only and name not in only:
            continue
        data, folder = train_chars(config, lines), os.path.join(target, name)
        write(folder, "tokenizer.json", data)
        t = Tokenizer.from_str(json.dumps(data))
        write_ids(folder, [t.encode(s, add_special_tokens=False).ids for s in samples])
    for name, settings in SENTENCEPIECE.items():
        if only and name not in only:
            continue
        model, folder = train_sentencepiece(settings, pieces), os.path.join(target, name)
        write(folder, "tokenizer.model", model)
        sp = spm.SentencePieceProcessor(model_proto=model)
        ids = [sp.encode(s) for s in samples]
        write_ids(folder, ids)
        if name == "spbpe":
            write(os.path.join(target, "ggufspm"), "vocab.gguf", gguf_of_sentencepiece(model))
            write_ids(os.path.join(target, "ggufspm"), ids)
    for name, base, pre in (("ggufllama3", "llama3", "llama-bpe"), ("ggufsmollm", "smollm", "smollm"),
                            ("ggufdeepseek", "deepseek3", "deepseek-v3")):
        if only and name not in only:
            continue
        folder = os.path.join(target, base)
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
            write(os.path.join(target, name), "vocab.gguf", gguf_of_bytes(json.load(f), pre))
        with open(os.path.join(folder, "ids.json"), "rb") as f:
            write(os.path.join(target, name), "ids.json", f.read())


if __name__ == "__main__":
    main()
