#!/usr/bin/env python3
"""Compares dense log-probabilities of texts, token by token, with llama.cpp's on the same GGUF file.

    tools/compare_logprobs.py LLAMA_LOGPROBS MODEL TEXT... [--limit N]

LLAMA_LOGPROBS is the program that tools/llama_logprobs.c becomes. Texts must give the same ids in both; their
first N (default 2048) are scored. Prints a row of Markdown for each text and dtype: the mean of basin's minus
llama.cpp's log-probabilities, the mean and the largest of their absolute differences, and both perplexities.
"""
import argparse
import json
import math
import subprocess


def basin(*args, text=None):
    return subprocess.run(["build/basin", *args], input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def llama(program, model, what, text):
    out = subprocess.run([program, model, what], input=text, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [float(x) if what == "score" else int(x) for x in out.split()]


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("program")
    p.add_argument("model")
    p.add_argument("texts", nargs="+")
    p.add_argument("--limit", type=int, default=2048)
    o = p.parse_args()
    for path in o.texts:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        ids = llama(o.program, o.model, "ids", text)
        ours = json.loads(basin("tokenize", o.model, "-", text=text))["token_ids"]
        if ids != ours:
            at = next((i for i, (a, b) in enumerate(zip(ids, ours)) if a != b), min(len(ids), len(ours)))
            raise SystemExit(f"{path}: ids differ from the {at}th on: {ids[at:at + 5]} and {ours[at:at + 5]}")
        ids = ids[:o.limit]
        theirs = llama(o.program, o.model, "score", "\n".join(map(str, ids)))
        for dtype in "f32", "bf16":
            rows = basin("score", o.model, "-", "--ids-key", "token_ids", "--mode", "dense", "--tokens", "--quiet", "--threads", "1",
                         "--dtype", dtype, text=json.dumps({"token_ids": ids}) + "\n")
            mine = [x for row in rows.splitlines() for x in json.loads(row)["logprobs"]][1:]
            assert len(mine) == len(theirs)
            d = [a - b for a, b in zip(mine, theirs)]
            n = len(d)
            print(f"| {o.model.split('/')[-1]} | {path.split('/')[-1]} | {n} | {dtype} | {sum(d) / n:+.4f} | "
                  f"{sum(map(abs, d)) / n:.4f} | {max(map(abs, d)):.3f} | {math.exp(-sum(mine) / n):.3f} | "
                  f"{math.exp(-sum(theirs) / n):.3f} |", flush=True)


if __name__ == "__main__":
    main()
