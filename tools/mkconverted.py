#!/usr/bin/env python3
"""Makes tests/data/converted.txt: what llama.cpp's own converter makes of the fixtures.

    tools/mkconverted.py LLAMA_CPP > tests/data/converted.txt

LLAMA_CPP is its source tree (the one inside llama-cpp-python 0.3.36 was used), with torch 2.6.0, transformers
4.57.1, safetensors and pyyaml to import. Nothing of it is kept but these lines:

    model FIXTURE ARCHITECTURE
    key NAME VALUE                    of the metadata under the architecture's name
    tensor NAME DIM[xDIM] CRC32       row-major; of the F32 values as stored

The fixtures have no vocabulary and two of them no field that the converter wants: see `changed`. Those that differ from
every published model in what the converter does not write (the activation of GPT-NeoX, Gemma's scale of scores) are
not here.
"""
import contextlib
import importlib
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

FIXTURES = pathlib.Path("tests/data/fixtures")
CLASSES = {
    "llama": "llama.LlamaModel", "llama_tied": "llama.LlamaModel", "yi": "llama.LlamaModel",
    "mistral": "llama.LlamaModel", "llama_rope_linear": "llama.LlamaModel", "llama_rope_yarn": "llama.LlamaModel",
    "llama_rope_llama3": "llama.LlamaModel", "qwen2": "qwen.Qwen2Model", "qwen3": "qwen.Qwen3Model",
    "gemma3": "gemma.Gemma3Model", "phi3": "phi.Phi3MiniModel", "stablelm2": "stablelm.StableLMModel",
    "stablelm_epoch": "stablelm.StableLMModel", "falcon_mq": "falcon.FalconModel", "falcon_new": "falcon.FalconModel",
    "gpt_neox": "gptneox.GPTNeoXModel", "gpt_neox_seq": "gptneox.GPTNeoXModel", "mpt": "mpt.MPTModel",
    "qwen": "qwen.QwenModel", "gpt2": "gpt2.GPT2Model",
    "mistral_hd24": "llama.LlamaModel", "llama_biases": "llama.LlamaModel", "qwen2_hd80": "qwen.Qwen2Model",
    "qwen3_hd96": "qwen.Qwen3Model", "stablelm2_par": "stablelm.StableLMModel",
    "falcon_one_norm": "falcon.FalconModel", "mpt_clip": "mpt.MPTModel",
    "mpt_qkln": "mpt.MPTModel",
}


def changed(name, h):
    if name == "falcon_mq":
        h["num_kv_heads"] = 1  # what multi_query means
    if name == "gpt2":
        h["n_ctx"] = h["n_positions"]
    return h


def convert(name, folder, gguf, base):
    module, cls = CLASSES[name].split(".")
    C = getattr(importlib.import_module("conversion." + module), cls)
    C.set_vocab = lambda self: None
    source = folder / name
    shutil.copytree(FIXTURES / name, source)
    if name == "gemma3":  # it cuts the embedding to the vocabulary
        (source / "tokenizer.model").touch()
        C._create_vocab_sentencepiece = lambda self: (range(256),)
    out = folder / (name + ".gguf")
    h = changed(name, base.ModelBase.load_hparams(source, False))
    C(source, gguf.LlamaFileType.ALL_F32, out, hparams=h).write()
    return gguf.GGUFReader(out)


def record(name, r):
    arch = r.fields["general.architecture"].contents()
    print("model", name, arch)
    for key, field in r.fields.items():
        if key.startswith(arch + "."):
            print("key", key, json.dumps(field.contents()))
    for t in r.tensors:
        dims = "x".join(str(d) for d in reversed(t.shape.tolist()))
        print("tensor", t.name, dims, "%08x" % zlib.crc32(t.data.tobytes()))


def main():
    sys.path[:0] = [os.path.join(sys.argv[1], "gguf-py"), sys.argv[1]]
    import gguf
    from conversion import base
    logging.disable(logging.CRITICAL)
    for name in CLASSES:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            r = convert(name, pathlib.Path(folder), gguf, base)
        with contextlib.redirect_stdout(sys.__stdout__):
            record(name, r)


if __name__ == "__main__":
    main()
