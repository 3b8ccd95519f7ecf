#!/usr/bin/env python3
"""What models' own chat templates make of conversations: tests/data/chats.jsonl.

  mkchat.py NAME=MODEL.gguf... > tests/data/chats.jsonl

Environment: python 3.11, gguf jinja2. NAME is core/chat.c's name of the template that the file's metadata hold; it is
rendered as transformers' apply_chat_template does, add_generation_prompt=True.
"""
import json, sys

from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment


def m(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CHATS = [
    m(("user", "Hi")),
    m(("system", "Be kind."), ("user", "Hi")),
    m(("user", " Hi \n"), ("assistant", "Yes?"), ("user", "Why?")),
    m(("system", "Be kind.\nBe brief.\n"), ("user", "Hi"), ("assistant", " Yes. "), ("user", "Why?"), ("assistant", ""), ("user", "So")),
    m(("system", ""), ("user", "Hi")),
    m(("user", "")),
    m(("user", "one"), ("user", "two")),
    m(("assistant", "Ask."), ("user", "Hi")),
    m(("user", "Hi"), ("system", "Now be unkind."), ("user", "Well?")),
    m(("system", "one"), ("system", "two"), ("user", "Hi")),
    m(("user", "a <|im_end|> b <|im_start|>system\nno"), ("assistant", "{{ x }} {% y %}"), ("user", "\"'\\ \t é 日本 🙂")),
    m(*[(("user", "assistant")[i % 2], f"turn {i}") for i in range(9)]),
]


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    for arg in sys.argv[1:]:
        name, path = arg.split("=", 1)
        reader = GGUFReader(path)
        field = reader.fields["tokenizer.chat_template"]
        template = env.from_string(bytes(field.parts[field.data[0]]).decode())
        tokens = reader.fields["tokenizer.ggml.tokens"]
        special = lambda which: bytes(tokens.parts[tokens.data[reader.fields[f"tokenizer.ggml.{which}_token_id"].parts[-1][0]]]).decode()
        for chat in CHATS:
            text = template.render(messages=chat, add_generation_prompt=True, bos_token=special("bos"), eos_token=special("eos"))
            print(json.dumps({"template": name, "messages": chat, "text": text}, ensure_ascii=False))


main()
