#!/usr/bin/env python3
"""The schema of `basin schema` and the program's own validator agree: on every manifest in tests/data, and
on many made from the valid ones by changing a value or a key. Prints each disagreement, exits 1 if there
was one, 77 without the package jsonschema (Debian: python3-jsonschema).

usage: tests/schema_agrees.py BASIN DIR      DIR: an empty directory to work in
"""
import copy
import json
import os
import random
import subprocess
import sys

try:
    from jsonschema import Draft202012Validator
except ImportError:
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(ROOT, "tests", "data")

# Refused by the program alone, and why a schema cannot say it.
ONLY_PROGRAM = {
    "list_same_name": "two settings of one list are compared by one of their keys",
    "input_twice": "entries written in two ways name one source",
    "input_stdin_twice": "the same, of stdin",
    "generate_min_above_max": "two numbers are compared",
}


class NotJson(Exception):
    pass


def members(pairs):
    """An object; a key given twice is no JSON to this program."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise NotJson("duplicate key")
    return out


def constant(name):
    raise NotJson(name)


def schema_takes(validator, raw):
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=members, parse_constant=constant)
    except (UnicodeDecodeError, ValueError, NotJson):
        return False
    return validator.is_valid(value)


def program_takes(basin, path):
    """Exit 65 is for a bad manifest; files that it names and that are not there make it 66."""
    done = subprocess.run([basin, "validate", path], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    if done.returncode not in (0, 65, 66):
        sys.exit(f"{path}: exit {done.returncode}: {done.stderr}")
    return done.returncode != 65


def fixtures():
    valid, invalid = os.path.join(DATA, "valid", "manifest"), os.path.join(DATA, "invalid", "manifest")
    for name in sorted(os.listdir(valid)):
        yield name, os.path.join(valid, name)
    for name in sorted(os.listdir(invalid)):
        yield name, os.path.join(invalid, name, "manifest.json")


# ---- changed manifests

ODD = [None, True, False, 0, 1, -1, 4, 1024, 65536, 65537, 16777216, 16777217, 1048576, 1048577, 1 << 40,
       (1 << 40) + 1, 1e30, 0.5, 2.0, "", "x", "a\u0000b", "tab\there", "é" * 32, "sink", "window", "dense",
       "stream", "auto", "bf16", "int8", "fail", "replace", "score", "generate", [], {}, [1], {"path": "a.txt"},
       16384, 16385, -0.1, 1.1, -2, 2, 3, 100, 101, 1024, ["a", "b"], ["a", "a"], ["a", ""], [1, 2, 2.0], {"7": 1.5},
       {"07": 1}, {"2147483648": 1}, {"2147483647": -100}, "room", 1 << 53]
KEYS = {
    "cache": ["name", "mode", "sink_tokens", "attention_sink_size", "window_tokens", "strict_window",
              "attention_sink_window_size", "prefill", "prefill_tokens", "chunk_tokens"],
    "generate": ["max_new_tokens", "max_tokens", "min_new_tokens", "temperature", "do_sample", "top_k", "top_p",
                 "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "penalty_alpha",
                 "contrastive_window", "stop", "stop_token_ids", "ignore_eos", "bad_words", "logit_bias", "seed",
                 "logprobs", "token_ids", "tokens", "streams", "turn", "template", "add_bos",
                 "use_generation_config"],
    "input": ["path", "text_key", "messages_key", "id_key", "ids_key", "invalid_utf8"],
    "score": ["tokens", "limit_tokens", "add_bos"],
    "output": ["path", "part_bytes"],
    "compute": ["dtype", "span_tokens"],
    "": ["version", "job", "cache", "score", "compute", "generate", "input", "output"],
}
NUMBERS = ["_tokens", "_size", "_bytes"]  # endings of keys that are mostly given numbers here
# Beyond the manifest `validate` looks at files too: paths stay with files that are there.
PATHS = ["a.txt", "b.txt", "c.jsonl", "-"]
SEEDS = [
    {"cache": {"mode": "sink"}},
    {"cache": [{"name": "a", "mode": "sink"}, {"name": "b", "mode": "window", "window_tokens": 9}]},
    {"cache": {"mode": "dense"}, "score": {"tokens": True, "limit_tokens": 5, "add_bos": False}},
    {"cache": {"prefill": "dense", "prefill_tokens": 9}, "input": [{"path": "c.jsonl", "ids_key": "k"}, "a.txt"]},
    {"job": "generate", "generate": {"max_new_tokens": 9}},
    {"job": "generate", "generate": {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4}},
    {"job": "generate", "generate": {"max_tokens": 9, "do_sample": True, "top_k": 4, "tokens": False},
     "cache": {"prefill": "dense"}, "input": {"path": "c.jsonl", "messages_key": "m"}},
    {"job": "generate", "generate": {"max_tokens": 9, "penalty_alpha": 0.6, "top_k": 4, "stop": ["a"]}},
    {"job": "generate", "generate": {"max_tokens": 20000, "use_generation_config": True, "min_p": 0.1}},
    {"cache": {"mode": "window", "chunk_tokens": 3, "strict_window": True}, "input": {"path": "c.jsonl"},
     "compute": {"dtype": "f32", "span_tokens": 7}, "output": {"path": "out", "part_bytes": 4096}},
]


def objects(value, section=""):
    """Every object in a manifest, with the section it belongs to."""
    if isinstance(value, dict):
        yield value, section
    for key, child in value.items() if isinstance(value, dict) else \
            ((section, v) for v in value) if isinstance(value, list) else ():
        yield from objects(child, section or key)


def change(rng, manifest):
    """Changes one member somewhere."""
    at, section = rng.choice([o for o in objects(manifest) if o[1] in KEYS])
    if rng.random() < 0.1:
        section = rng.choice(list(KEYS))  # a key out of place
    key = rng.choice(KEYS[section])
    if key in at and rng.random() < 0.3:
        del at[key]
    elif key == "path":
        at[key] = copy.deepcopy(rng.choice(PATHS + [None, 3, "", "a\u0000b", []]))
    elif rng.random() < 0.5 and any(map(key.endswith, NUMBERS)):
        at[key] = rng.choice([0, 1, 4, 1024, 65536, 1048576, 16777216])
    else:
        at[key] = copy.deepcopy(rng.choice(ODD))


def only_program(manifest):
    """What ONLY_PROGRAM is about."""
    generate = manifest.get("generate")
    if isinstance(generate, dict):
        template = generate.get("template")
        if isinstance(template, str) and template not in ("", "auto") and "\0" not in template:
            return True  # which names there are, the schema does not say
        most = generate.get("max_new_tokens", generate.get("max_tokens"))
        least = generate.get("min_new_tokens")
        if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (most, least)) and least > most:
            return True
    inputs, cache = manifest.get("input"), manifest.get("cache")
    paths = [i.get("path") if isinstance(i, dict) else i for i in inputs if isinstance(i, (str, dict))] \
        if isinstance(inputs, list) else []
    names = [s.get("name") for s in cache if isinstance(s, dict)] if isinstance(cache, list) else []
    return any(len(set(map(str, x))) != len(x) for x in (paths, names))


def main():
    basin, work = os.path.abspath(sys.argv[1]), sys.argv[2]
    schema = json.loads(subprocess.run([basin, "schema"], capture_output=True, check=True).stdout)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    wrong = n = n_taken = 0
    for name, path in fixtures():
        with open(path, "rb") as f:
            by_schema = schema_takes(validator, f.read())
        by_program = program_takes(basin, path)
        n += 1
        if name in ONLY_PROGRAM:
            if by_program:
                print(f"{name}: taken by the program")
                wrong += 1
        elif by_schema != by_program:
            print(f"{name}: program {by_program}, schema {by_schema}")
            wrong += 1

    os.chdir(work)
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("c.jsonl", '{"text": "three"}\n')):
        with open(name, "w") as f:
            f.write(text)
    rng = random.Random(1)
    common = {"version": 1, "job": "score", "model": os.path.join(ROOT, "examples", "demo", "model"),
              "input": "a.txt", "output": {"path": "out"}}
    for _ in range(2000):
        manifest = copy.deepcopy({**common, **rng.choice(SEEDS)})
        for _ in range(rng.choice([1, 1, 2])):
            change(rng, manifest)
        if only_program(manifest):
            continue
        with open("m.json", "w") as f:
            json.dump(manifest, f)
        by_schema, by_program = validator.is_valid(manifest), program_takes(basin, "m.json")
        n += 1
        n_taken += by_program
        if by_schema != by_program:
            print(f"program {by_program}, schema {by_schema}: {json.dumps(manifest)}")
            wrong += 1
    if n_taken < 150 or n - n_taken < 200:
        print(f"{n_taken} of {n} were taken: too one-sided to say much")
        wrong += 1
    print(f"{n} manifests, {wrong} disagreements")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
