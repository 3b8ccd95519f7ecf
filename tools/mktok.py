#!/usr/bin/env python3
"""Makes tests/data/tok: small tokenizers in the configurations of well-known models, texts, and the
ids that the `tokenizers` library gives for them.

    pip install tokenizers==0.21.4
    tools/mktok.py tests/data/tok TRAINING_TEXT.txt
    tools/mktok.py --ranges          # the tables of core/tok_ucd.c
    tools/mktok.py --pair tests/data/tok   # `pair` there (transformers 4.34.0)

NAME/tokenizer.json [NAME/tokenizer_config.json]   a tokenizer
NAME/ids.json   its ids for each text of texts.json: a list or, when long, "COUNT:FNV-1a of the 32-bit little-endian ids"
texts.json      the texts: strings, or lists of [string, times] to be joined
"""
import json
import os
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders

N, P = normalizers, pre_tokenizers

MULTILINGUAL = [
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis. ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ",
    "敏捷的棕色狐狸跳过了懒狗。我能吞下玻璃而不伤身体。",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ。カタカナもある。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. ",
    "अनुच्छेद एक: सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता। ",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. ",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. ",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์ ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng. ",
]
CODE = '''#include <stdio.h>
int main(int argc, char **argv) {
\tfor (int i = 0; i < 1024; i++) {\r
\t\tprintf("%d: 0x%04x\\n", i, i * 31337);
    }


    return a[b->c++] != NULL ? 1 : -1; // done
}
def f(x):
    return {"key": [1, 2.5e-10, None], 'z': x**2}
'''

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
          r"|\s+(?!\S)|\s+")
DEEPSEEK_V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
               r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern, behavior="isolated", invert=False):
    return P.Split(Regex(pattern), behavior, invert)


def literal(text, behavior, invert=False):
    return P.Split(text, behavior, invert)


def seq(*parts):
    return P.Sequence(list(parts))


def plain(use_regex=False, prefix=False):
    return P.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def special(text, **flags):
    return AddedToken(text, special=True, normalized=flags.pop("normalized", False), **flags)


def added(text, **flags):
    return AddedToken(text, special=False, normalized=flags.pop("normalized", True), **flags)


EOT = [special("<|endoftext|>")]
CHAT = EOT + [special("<|im_start|>"), special("<|im_end|>")]
SPACES = EOT + [added(" " * n) for n in range(8, 1, -1)] + [added("\t\t"), added("\t\t\t")]
FLAGS = [
    special("<s>"),
    special("<mask>", lstrip=True),
    special("<sep>", rstrip=True),
    special("<both>", lstrip=True, rstrip=True),
    special("<s><s>"),
    added("word", single_word=True),
    added("Yesterday"),
    added("ÉTÉ"),
    added("raw", normalized=False, rstrip=True),
    added("rawhide", normalized=False),
]
STRIPS = [special("<s>"), special("<mask>", lstrip=True), special("<sep>", rstrip=True),
          added("tail", lstrip=True), added("head", rstrip=True)]

# name: (vocabulary size, normalizer, pre-tokenizer, added tokens, ignore_merges)
CONFIGS = {
    "gpt2": (1000, None, plain(True), EOT, False),
    "llama3": (1000, None, seq(split(GPT4 % "{1,3}"), plain()), [special("<|begin_of_text|>")] + CHAT, True),
    "qwen2": (600, N.NFC(), seq(split(GPT4 % ""), plain()), CHAT, False),
    "smollm": (700, None, seq(P.Digits(True), plain(True)), CHAT, False),
    "deepseek": (600, N.Sequence([]), seq(split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                                         split(r"[一-龥ࠀ-一가-퟿]+"), P.Digits(True), plain()), CHAT, False),
    "deepseek3": (600, N.Sequence([]), seq(split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"),
                                          split(DEEPSEEK_V3), plain()), CHAT, False),
    "falcon": (500, None, seq(P.Punctuation("contiguous"), plain(True), P.Digits(False),
                              split(r"[0-9][0-9][0-9]")), CHAT, False),
    "o200k": (500, None, seq(split(O200K), plain()), CHAT, True),
    "cl100k": (500, None, seq(split(CL100K, "removed", True), plain()), SPACES, False),
    "phi": (500, None, plain(True), SPACES, False),
    "flags": (500, N.Sequence([N.NFD(), N.Lowercase()]), plain(True, True), FLAGS, False),
    "strips": (500, None, plain(True), STRIPS, False),
    "nfkc": (500, N.Sequence([N.NFKC(), N.Replace("...", "…"), N.Replace("ab", "c")]),
             seq(P.Punctuation("merged_with_previous"), plain(True)), CHAT, False),
    "nfkd": (500, N.Sequence([N.NFKD(), N.Prepend("_")]),
             seq(P.Punctuation("merged_with_next"), P.Digits(False), plain(True)), STRIPS, False),
    "words": (500, N.Lowercase(), seq(P.Whitespace(), P.ByteLevel(add_prefix_space=True, use_regex=False)),
              CHAT, False),
    "splits": (500, None, seq(P.WhitespaceSplit(), literal("e", "merged_with_next"), split(r"a|b+", "contiguous"),
                              split(r"(?=[A-Z])"), split(r"\p{Lu}|(?<=l)l", "merged_with_previous"), plain()),
               EOT, False),
    "inverted": (500, None, seq(split(r"\w+|\d", "contiguous", True), split(r"\p{Han}+|\h{2,3}+x?", "removed"), plain()),
                 EOT, False),
    "whole": (500, None, plain(False), EOT, False),
}


def training_text(path):
    with open(path, encoding="utf-8") as f:
        english = f.read()
    return [english[:150000]] + MULTILINGUAL * 4 + [CODE] * 3 + ["    \n\n\t\t  ", "0123456789 2024 1999 100000 "] * 3


def train(config, lines):
    size, normalizer, pre, tokens, ignore = config
    t = Tokenizer(models.BPE(ignore_merges=ignore))
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=[k for k in tokens if k.special][:1])
    t.train_from_iterator(lines, trainer)
    for k in tokens:
        (t.add_special_tokens if k.special else t.add_tokens)([k])
    return t


def random_text(rng, n, code_points):
    out = []
    while len(out) < n:
        kind = rng.random()
        if kind < 0.3:
            out.append(chr(rng.choice(code_points)))
        elif kind < 0.5:
            out.append(chr(rng.randrange(0x20, 0x7F)))
        elif kind < 0.65:
            out.append(chr(rng.choice([0x300, 0x301, 0x323, 0x327, 0x338, 0x1161, 0x11A8, 0xAC00, 0x3099, 0x94D])))
        elif kind < 0.8:
            out.extend(rng.choice([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\u180e", "\x1c", "\x0b"]))
        else:
            out.extend(rng.choice(["'s", "'LL", "12", "3456", "wor", "word", "e", "é", "中", "🙂", "<|im_start|>", "<s>",
                                   "<mask>", "<sep>", "<both>", "raw", "rawhide", "...", "Yesterday", "été", "tail", "head"]))
    return "".join(out)


def texts(path):
    with open(path, encoding="utf-8") as f:
        english = f.read()
    rng = random.Random(20240607)
    # What Unicode 12 had: every library in use agrees about those.
    known = [c for c in range(0x20, 0x30000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
    out = [
        "", " ", "a", "\n", "\0", "\0\0 \0a\0", "\r\n\r\n", english[200000:202000], "".join(MULTILINGUAL), CODE,
        "I'm we'LL they'Ve IT'S 'ſ 'K don't'd'x 'S'T'RE I'ſ",
        "😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽 🇩🇪🇫🇷 1️⃣ ❤️ ☺︎",
        "e\u0301 \u0301e a\u0327\u0301 a\u0301\u0327 q\u0323\u0307 q\u0307\u0323 \u1e9b\u0323 \u0344 \u0f73\u0f71 한글 \u1112\u1161\u11ab \uac00\u11a8",
        "ﬁne Ⅷ ½ ① ㎏ ﷺ ｆｕｌｌ İstanbul ΣΑΣ ǅ ẞ",
        "1 12 123 1234 12345678901 ٣٤٥ ४५६ ¹²³ ⅧⅨ 3.14e-10 1,000,000",
        "a  b   c    d\n\n\n\ne \n f\t\tg\t \th   \n", [[" ", 100]], [["\n", 70]], [["\t", 33]], [["a", 300]], [["ab", 5000]],
        [["!", 9000]], [["x", 4100], [" ", 5000], ["y", 1]], [["7", 10000]], [["😀", 3000]], [["é", 3000]], [["e\u0301", 2000]],
        [["\r\n", 3000]], [["the", 2000], ["\u0301", 50], ["and", 1500]],
        "".join(rng.choice("abcdeé") for _ in range(7000)), "".join(rng.choice("  \n\t\u00a0") for _ in range(5000)),
        "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|endoftext|> x <|im_start|", "<|im_start|><|im_end|>x",
        "<s><s><s> <s><s> <mask>  <mask>\n<sep>  <sep> x<sep>\u3000y <both>   <both> <both>", "   <mask>   <sep>   ",
        "word words sword word. _word word\u0301 (word) wordword word", "wordword word", "Yesterday yesterday yEsTeRdAy ÉTÉ été e\u0301te\u0301",
        "raw  rawhide rawhid raw \n rawx", "x tail  tail head  head\n\nhead", "    four  two     five        eight         nine",
        "\x1c\x1d\x85\u180e\u200b\u2028\ufeff a\u00a0b\u3000c", "ab...ab....abab", "ÀÉÎ\u0130\u0130x ǰ ŉ", "allall aAbBbBeEe elLlll XYZxyz",
        "deadbeef12 0xCAFE abx 中文字漢字かな中", english[300000:300800].replace("\n", "\r\n"),
    ]
    # Tables of different ages: Unicode 16 letters, digits, marks and punctuation; exclusions from composition.
    out += ["\u1c89a\ua7cb\ua7da \U000105c0\U00010d40\U00010d41 a\u0897b \u1b4e\u2427 \U00010d50x \U00031350\u4e00",
            "\U0001d15e\u2adc\u0958 \ua7f2\u32ff\U00011938 \u166d\u2e52\U000111c9!\u2e43 \u061d"]
    out += [random_text(rng, rng.randrange(1, 400), known) for _ in range(24)]
    return out


def fnv(ids):
    h = 0xCBF29CE484222325
    for b in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ b) * 0x100000001B3 % 2**64
    return "%d:%016x" % (len(ids), h)


def main():
    target, source = sys.argv[1:3]
    os.makedirs(target, exist_ok=True)
    samples, lines = texts(source), training_text(source)
    with open(os.path.join(target, "texts.json"), "w", encoding="utf-8") as f:
        json.dump(samples, f, ensure_ascii=False, separators=(",", ":"))
    samples = [s if isinstance(s, str) else "".join(t * n for t, n in s) for s in samples]
    for name, config in CONFIGS.items():
        t = train(config, lines)
        if name == "llama3":
            t.post_processor = processors.Sequence([byte_offsets(), processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])])
        folder = os.path.join(target, name)
        os.makedirs(folder, exist_ok=True)
        data = json.loads(t.to_str())
        if name in ("llama3", "qwen2"):  # the older way to write merges
            data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        ids = [t.encode(s, add_special_tokens=False).ids for s in samples]
        with open(os.path.join(folder, "ids.json"), "w") as f:
            json.dump([i if len(i) <= 100 else fnv(i) for i in ids], f, separators=(",", ":"))


def newer_ranges():
    """Prints core/tok_ucd.c's tables: what the library's categories have beyond Unicode 14."""
    assert unicodedata.unidata_version == "14.0.0", "run with Python 3.11 or 3.12"
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF)
    scripts = ["Han", "Hiragana", "Katakana", "Hangul", "Latin", "Cyrillic", "Greek", "Arabic", "Thai", "Devanagari"]
    names = ("L Lu Ll Lm Lo M Mn Mc N Nd Nl No P Pd Ps Pe Po S Sm Sc Sk So Cf").split() + scripts
    found = []
    for name in names:
        runs = split(r"\p{%s}+" % name, "removed", True).pre_tokenize_str(everything)
        new = [ord(c) for text, _ in runs for c in text
               if (unicodedata.category(c) == "Cn" if name in scripts
                   else not unicodedata.category(c).startswith(name))]
        ranges = []
        for c in sorted(new):
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
        if not ranges:
            continue
        found.append(name)
        print("static const struct tok_range new_%s[] = {" % name)
        row = "   "
        for first, last in ranges:
            item = " {0x%X, 0x%X}," % (first, last)
            if len(row) + len(item) > 100:
                print(row)
                row = "   "
            row += item
        print(row + "\n};")
    print("static const struct {\n    const char *category;\n    const struct tok_range *ranges;\n    size_t n;\n} newer[] = {")
    for name in found:
        print('    {"%s", new_%s, COUNTOF(new_%s)},' % (name, name, name))
    print("};")


def pair(target):
    """TARGET/pair: the tokenizer of `gpt2` as vocab.json and merges.txt, with OPT's special tokens, and the ids that
    transformers' GPT2TokenizerFast (4.34.0) gives. Run behind main()."""
    from transformers import GPT2TokenizerFast
    with open(os.path.join(target, "texts.json"), encoding="utf-8") as f:
        samples = [s if isinstance(s, str) else "".join(t * n for t, n in s) for s in json.load(f)]
    with open(os.path.join(target, "gpt2", "tokenizer.json"), encoding="utf-8") as f:
        model = json.load(f)["model"]
    vocab = {"</s>" if t == "<|endoftext|>" else t: i for t, i in model["vocab"].items()}
    vocab["<pad>"] = len(vocab)
    folder = os.path.join(target, "pair")
    os.makedirs(folder, exist_ok=True)
    write = lambda name: open(os.path.join(folder, name), "w", encoding="utf-8")
    with write("vocab.json") as f:
        json.dump(vocab, f, ensure_ascii=False, separators=(",", ":"))
    with write("merges.txt") as f:
        f.write("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in model["merges"]))
    token = {"__type": "AddedToken", "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    with write("tokenizer_config.json") as f:
        json.dump({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False, "bos_token": token,
                   "eos_token": token, "unk_token": token, "pad_token": dict(token, content="<pad>")}, f)
    t = GPT2TokenizerFast.from_pretrained(folder)
    print(t.encode("</s> a </s>b <pad>.", add_special_tokens=False))  # tests/test_tok.c
    assert t.encode("a")[0] == vocab["</s>"] and t.bos_token_id == t.eos_token_id == vocab["</s>"]
    with write("ids.json") as f:
        ids = [t.encode(s, add_special_tokens=False) for s in samples]
        json.dump([i if len(i) <= 100 else fnv(i) for i in ids], f, separators=(",", ":"))


def byte_offsets():
    return processors.ByteLevel(trim_offsets=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["--ranges"]:
        newer_ranges()
    elif sys.argv[1] == "--pair":
        pair(sys.argv[2])
    else:
        main()
