"""Writes the expected results next to it, with Python's own json and codecs as the judge.

texts.jsonl      lines to be read with text_key "text" and id_key "id"
texts.expected   a line per document: offset, id, text as UTF-8 in hex
replace.hex      a line per case: bytes in hex, what errors="replace" makes of them in hex
"""
import json
import os
import random

here = os.path.dirname(os.path.abspath(__file__))
random.seed(1)


def text():
    alphabet = ["a", "b", " ", "\n", "\t", '"', "\\", "/", "\u00e9", "\u20ac", "\U0001f600", "\0",
                "\x1f", "\x7f", "\u2028", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "{", "]", ","]
    return "".join(random.choice(alphabet) for _ in range(random.choice([0, 1, 2, 5, 20, 90])))


def value(depth):
    k = random.randrange(8 if depth < 4 else 6)
    if k == 6:
        return [value(depth + 1) for _ in range(random.randrange(4))]
    if k == 7:
        return {text(): value(depth + 1) for _ in range(random.randrange(4))}
    return [None, True, False, random.randrange(-99, 99), random.random() * 1e-9, text()][k]


lines = []
for i in range(200):
    doc = [("text", text())]
    if i % 3:
        doc.append(("id", [i, f"doc {i}\u00e9", -i / 7][i % 3]))
    doc += [(f"k{j}", value(0)) for j in range(random.randrange(4))]
    random.shuffle(doc)
    separators = random.choice([(",", ":"), (", ", ": "), (" ,\t", "\r: ")])
    line = json.dumps(dict(doc), ensure_ascii=random.random() < 0.5, separators=separators)
    lines.append(random.choice(["", "", "  ", "\t"]) + line + random.choice(["", "", " ", "\r"]))
    if i % 10 == 0:
        lines.append(random.choice(["", " ", "\r", "\t \r"]))

with open(os.path.join(here, "texts.jsonl"), "wb") as out:
    out.write("\n".join(lines).encode())
with open(os.path.join(here, "texts.expected"), "w", newline="\n") as out:
    at = 0
    for line in open(os.path.join(here, "texts.jsonl"), "rb").read().split(b"\n"):
        if line.strip():
            doc = json.loads(line, parse_int=str, parse_float=str)
            name = doc.get("id", f"texts.jsonl#{at}")
            out.write(f"{at}\t{name}\t{doc['text'].encode().hex()}\n")
        at += len(line) + 1

with open(os.path.join(here, "replace.hex"), "w", newline="\n") as out:
    parts = [b"a", b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\x80", b"\xbf", b"\xc0",
             b"\xc1", b"\xc2", b"\xe0", b"\xe0\x80", b"\xe0\xa0", b"\xed\xa0\x80", b"\xed", b"\xf0",
             b"\xf0\x80", b"\xf0\x90", b"\xf0\x90\x80", b"\xf4\x90", b"\xf4\x8f\xbf", b"\xf5",
             b"\xff", b"\xe2\x82", b"\xf1\x80\x80", b"\xfe", b"\xef\xbb\xbf"]
    cases = [bytes([a]) for a in range(128, 256)] + [a + b for a in parts for b in parts]
    cases += [b"".join(random.choices(parts, k=random.randrange(3, 12))) for _ in range(300)]
    for c in cases:
        out.write(f"{c.hex()} {c.decode('utf-8', 'replace').encode().hex()}\n")
