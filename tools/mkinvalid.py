#!/usr/bin/env python3
"""Writes tests/data/invalid/safetensors/<case>/: broken models, each with a file `error` that holds
the status name expected of st_open() and a part of its message.

usage: tools/mkinvalid.py [tests/data/invalid/safetensors]
"""
import json
import os
import shutil
import struct
import sys

CASES = {}


def case(name, error, **files):
    assert name not in CASES, name
    CASES[name] = (error, files)


def raw(header, data=b""):
    """A file whose header is the text `header`."""
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def st(data, **tensors):
    return raw(json.dumps(tensors), bytes(data))


def index(**weight_map):
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


def one(name, error, content):
    case(name, error, **{"model.safetensors": content})


def sharded(name, error, weight_map, **shards):
    files = {"model.safetensors.index.json": index(**weight_map)}
    files.update({k + ".safetensors": v for k, v in shards.items()})
    case(name, error, **files)


F4 = tensor("F32", [4], 0, 16)
GOOD = st(16, a=F4)

case("no_model", "input\nhas no model.safetensors and no index", **{"config.json": b"{}"})
one("empty_file", "format\nmodel.safetensors: 0 bytes; too short", b"")
one("seven_bytes", "format\nmodel.safetensors: 7 bytes; too short", b"\2\0\0\0\0\0\0")
one("header_longer_than_file", "format\na header of 1000 bytes in a file of 10",
    struct.pack("<Q", 1000) + b"{}")
one("header_one_byte_too_long", "format\na header of 3 bytes in a file of 10",
    struct.pack("<Q", 3) + b"{}")
one("header_2_63", "format\na header of 9223372036854775808 bytes; at most 100000000",
    struct.pack("<Q", 1 << 63) + b"{}")
one("header_all_ones", "format\na header of 18446744073709551615 bytes; at most 100000000",
    b"\xff" * 8 + b"{}")
one("header_over_cap", "format\na header of 100000001 bytes; at most 100000000",
    struct.pack("<Q", 100000001) + b"{}")
one("header_empty", "format\nmodel.safetensors:1:", raw(""))
one("header_not_json", "format\nmodel.safetensors:1:", raw("{'a': 1}"))
one("header_not_utf8", "format\nunable to decode byte 0xff", raw(b'{"\xff": 1}'))
one("header_trailing_text", "format\nend of file expected", raw("{} x"))
one("header_not_object", "format\nmodel.safetensors: the header is not an object", raw("[]"))
one("tensor_twice", "format\nduplicate object key",
    raw('{"a": %s, "a": %s}' % (json.dumps(F4), json.dumps(F4)), bytes(16)))
one("metadata_not_object", "format\n__metadata__ is not an object", raw('{"__metadata__": 3}'))
one("metadata_not_strings", "format\n__metadata__: \"k\" is not a string",
    raw('{"__metadata__": {"k": 3}}'))
one("tensor_not_object", "format\ntensor \"a\": not an object", raw('{"a": 3}'))
one("field_unknown", "format\ntensor \"a\": unknown field \"strides\"",
    st(16, a=dict(F4, strides=[1])))
one("dtype_missing", "format\ntensor \"a\": dtype is not a string",
    st(16, a={"shape": [4], "data_offsets": [0, 16]}))
one("dtype_number", "format\ntensor \"a\": dtype is not a string", st(16, a=tensor(3, [4], 0, 16)))
one("dtype_unknown", "unsupported\ntensor \"a\": unknown dtype \"F7\"",
    st(16, a=tensor("F7", [4], 0, 16)))
one("shape_missing", "format\ntensor \"a\": shape is not a list",
    st(16, a={"dtype": "F32", "data_offsets": [0, 16]}))
one("shape_number", "format\ntensor \"a\": shape is not a list", st(16, a=tensor("F32", 4, 0, 16)))
one("shape_negative", "format\ntensor \"a\": dimension 1 is not a non-negative integer",
    st(16, a=tensor("F32", [4, -1], 0, 16)))
one("shape_fraction", "format\ntensor \"a\": dimension 0 is not a non-negative integer",
    st(16, a=tensor("F32", [4.5], 0, 16)))
one("shape_huge_integer", "format\ntensor \"a\": dimension 0 is not a non-negative integer",
    st(16, a=tensor("F32", [10**30], 0, 16)))
one("shape_nine_dimensions", "format\ntensor \"a\": 9 dimensions; at most 8",
    st(4, a=tensor("F32", [1] * 9, 0, 4)))
one("shape_overflow", "format\ntensor \"a\": the product of its shape overflows",
    st(16, a=tensor("F32", [1 << 32, 1 << 32], 0, 16)))
# 2^58 elements fit into 64 bits, their 2^64 bits do not; wrapped round they would be 0 bytes.
one("size_overflow", "format\ntensor \"a\": its size overflows",
    st(0, a=tensor("F64", [1 << 58], 0, 0)))
one("shape_not_bytes", "format\ntensor \"a\": its shape takes 12 bytes of F32, its data_offsets 16",
    st(16, a=tensor("F32", [3], 0, 16)))
one("half_a_byte", "format\ntensor \"a\": its shape takes 1 bytes of F4, its data_offsets 1",
    st(1, a=tensor("F4", [3], 0, 1)))
one("offsets_missing", "format\ntensor \"a\": data_offsets are not two non-negative integers",
    st(16, a={"dtype": "F32", "shape": [4]}))
one("offsets_three", "format\ntensor \"a\": data_offsets are not two non-negative integers",
    st(16, a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]}))
one("offsets_text", "format\ntensor \"a\": data_offsets are not two non-negative integers",
    st(16, a=tensor("F32", [4], "0", 16)))
one("offsets_end_text", "format\ntensor \"a\": data_offsets are not two non-negative integers",
    st(16, a=tensor("F32", [4], 0, "16")))
one("offsets_negative", "format\ntensor \"a\": data_offsets are not two non-negative integers",
    st(16, a=tensor("F32", [4], -16, 0)))
one("offsets_reversed", "format\ntensor \"a\": data_offsets are reversed (16, 0)",
    st(16, a=tensor("F32", [4], 16, 0)))
one("offsets_outside", "format\ntensor \"a\": its data ends at byte 9007199254740992 of 16",
    st(16, a=tensor("F32", [4], 0, 1 << 53)))
one("file_cut_short", "format\ntensor \"b\": its data ends at byte 32 of 31; the file is cut short",
    st(31, a=F4, b=tensor("F32", [4], 16, 32)))
one("trailing_bytes", "format\nmodel.safetensors: 1 bytes behind the last tensor", st(17, a=F4))
one("no_tensor_trailing", "format\nmodel.safetensors: 4 bytes behind the last tensor",
    raw("{}", bytes(4)))
one("overlap", "format\ntensors \"a\" and \"b\" overlap",
    st(28, a=F4, b=tensor("F32", [4], 12, 28)))
one("overlap_same", "format\ntensors \"a\" and \"b\" overlap", st(16, a=F4, b=F4))
one("hole", "format\n4 bytes before tensor \"b\" belong to no tensor",
    st(36, a=F4, b=tensor("F32", [4], 20, 36)))
one("hole_at_start", "format\n4 bytes before tensor \"a\" belong to no tensor",
    st(20, a=tensor("F32", [4], 4, 20)))

case("index_not_json", "format\nmodel.safetensors.index.json:1:",
     **{"model.safetensors.index.json": b"weight_map", "model.safetensors": GOOD})
case("index_no_map", "format\nindex.json: weight_map is missing or not an object",
     **{"model.safetensors.index.json": b"{}"})
case("index_is_list", "format\nindex.json: weight_map is missing or not an object",
     **{"model.safetensors.index.json": b"[]"})
case("index_map_list", "format\nindex.json: weight_map is missing or not an object",
     **{"model.safetensors.index.json": b'{"weight_map": []}'})
sharded("index_map_empty", "format\nindex.json: weight_map is empty", {})
sharded("shard_not_string", "format\nindex.json: tensor \"a\": its file is not a string", {"a": 1})
for name, path in [("parent", "../one.safetensors"), ("absolute", "/one.safetensors"),
                   ("folder", "sub/one.safetensors"), ("dots", ".."), ("dot", "."),
                   ("nothing", ""), ("nul", "one\0.safetensors")]:
    sharded("shard_path_" + name, "format\nis not the plain name of a file", {"a": path}, one=GOOD)
sharded("shard_missing", "input\ntwo.safetensors: No such file",
        {"a": "one.safetensors", "b": "two.safetensors"}, one=GOOD)
sharded("shard_lacks_tensor", "format\ntensor \"b\" is not in one.safetensors",
        {"a": "one.safetensors", "b": "one.safetensors"}, one=GOOD)
sharded("shard_swapped", "format\ntensor \"a\" is not in two.safetensors",
        {"a": "two.safetensors", "b": "one.safetensors"}, one=GOOD, two=st(16, b=F4))
sharded("tensor_not_in_index", "format\ntensor \"b\" of one.safetensors is not in the index",
        {"a": "one.safetensors"}, one=st(32, a=F4, b=tensor("F32", [4], 16, 32)))
sharded("tensor_in_two_shards", "format\none.safetensors too",
        {"a": "one.safetensors", "b": "two.safetensors"}, one=GOOD,
        two=st(32, a=F4, b=tensor("F32", [4], 16, 32)))
sharded("shard_broken", "format\ntwo.safetensors: tensor \"b\": its data ends",
        {"a": "one.safetensors", "b": "two.safetensors"}, one=GOOD, two=st(8, b=F4))


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "tests/data/invalid/safetensors"
    shutil.rmtree(root, ignore_errors=True)
    for name, (error, files) in CASES.items():
        os.makedirs(os.path.join(root, name))
        for path, content in {**files, "error": (error + "\n").encode()}.items():
            with open(os.path.join(root, name, path), "wb") as f:
                f.write(content)
    print(len(CASES), "cases in", root)


if __name__ == "__main__":
    main()
