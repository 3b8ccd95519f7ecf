#!/usr/bin/env python3
"""Writes tests/data/invalid/unpack/<case>/: a compressed file that is not what it should be, and a file
`error` that holds the status name expected of unpack_read() and a part of its message. The zstd and
LZ4 frames are put together by hand, so that no compressor is needed and every field can be wrong.

usage: tools/mkinvalid_unpack.py [tests/data/invalid/unpack]
"""
import gzip
import os
import shutil
import struct
import sys
import zlib

TEXT = b"A text that is the same, the same, the same again.\n" * 3
M32 = 0xFFFFFFFF
cases = {}


def case(name, suffix, data, error):
    assert name not in cases, name
    cases[name] = (suffix, data, error)


# ---- gzip ----

def gz(data=TEXT, flags=0, extra=b"", crc=None, size=None, method=8):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<4BIBB", 0x1F, 0x8B, method, flags, 0, 2, 255)
    return head + extra + body + struct.pack("<II", zlib.crc32(data) if crc is None else crc,
                                             len(data) if size is None else size)


G = gz()
case("gzip-empty-file", ".gz", b"", "format\nbyte 0: the file is empty")
case("gzip-one-byte", ".gz", G[:1], "format\nbyte 1: cut short")
case("gzip-cut-header", ".gz", G[:9], "format\nbyte 9: cut short: the file ends inside the gzip "
     "member that begins at compressed byte 0")
case("gzip-cut-data", ".gz", G[:20], "format\nbyte 20: cut short")
case("gzip-cut-checksum", ".gz", G[:-5], "format\nbyte %d: cut short" % (len(G) - 5))
case("gzip-cut-second-member", ".gz", G + G[:-1], "format\nbyte %d: cut short: the file ends "
     "inside the gzip member that begins at compressed byte %d" % (2 * len(G) - 1, len(G)))
case("gzip-checksum", ".gz", gz(crc=1), "format\nwrong checksum (CRC-32)")
case("gzip-checksum-second", ".gz", G + gz(crc=1), "format\nwrong checksum (CRC-32)")
case("gzip-length", ".gz", gz(size=7), "format\nwrong length field")
case("gzip-header-checksum", ".gz", gz(flags=2, extra=b"\0\0"), "format\nwrong header checksum")
case("gzip-method", ".gz", gz(method=7), "format\ndamaged gzip data (unknown compression method)")
case("gzip-reserved-flag", ".gz", gz(flags=0x40), "format\ndamaged gzip data (unknown header flags")
case("gzip-block-type", ".gz", G[:10] + b"\x07" + G[11:], "format\ninvalid block type")
case("gzip-distance", ".gz", gz(b"")[:10] + b"\x4b\x04\x12\0", "format\ninvalid distance")
case("gzip-trailing-text", ".gz", G + b"text", "format\nbyte %d: 4 bytes of something else behind "
     "the last gzip member" % len(G))
case("gzip-trailing-zeros", ".gz", G + bytes(512), "format\n512 bytes of something else")
case("gzip-trailing-one-byte", ".gz", G + b"\n", "format\n1 bytes of something else")
case("gzip-is-text", ".gz", TEXT, "format\nbyte 0: not gzip, which the name's .gz stands for")
case("gzip-is-zlib", ".gz", zlib.compress(TEXT), "format\nnot gzip")
case("gzip-is-zip", ".gz", b"PK\x03\x04" + bytes(26), "format\nthis looks like zip")


# ---- zstd ----

def zblock(kind, size, data, last):
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data


def zst(blocks=None, descriptor=0, window=b"\x50", extra=b"", tail=b""):
    """Raw blocks in a frame without a content size; window 0x50 is 1 MiB."""
    blocks = zblock(0, len(TEXT), TEXT, 1) if blocks is None else blocks
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window + extra + blocks + tail


Z = zst()
SKIP = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"never"
case("zstd-empty-file", ".zst", b"", "format\nbyte 0: the file is empty")
case("zstd-three-bytes", ".zst", Z[:3], "format\nbyte 3: cut short")
case("zstd-magic-only", ".zst", Z[:4], "format\nbyte 4: cut short")
case("zstd-cut-block", ".zst", Z[:60], "format\nbyte 60: cut short")
case("zstd-no-last-block", ".zst", zst(zblock(0, len(TEXT), TEXT, 0)), "format\ncut short")
case("zstd-cut-skippable", ".zst", Z + SKIP[:-1], "format\ncut short: the file ends inside the zstd "
     "frame that begins at compressed byte %d" % len(Z))
case("zstd-checksum", ".zst", zst(descriptor=4, tail=b"\1\2\3\4"), "format\nwrong checksum (XXH64)")
case("zstd-checksum-cut", ".zst", zst(descriptor=4, tail=b"\1\2"), "format\ncut short")
case("zstd-reserved-block", ".zst", zst(zblock(3, 1, b"x", 1)), "format\ndamaged zstd data")
case("zstd-reserved-bit", ".zst", zst(descriptor=8), "format\ndamaged zstd data")
case("zstd-block-too-large", ".zst", zst(zblock(0, 1 << 18, bytes(1 << 9), 1)),
     "format\ndamaged zstd data")
case("zstd-garbage-block", ".zst", zst(zblock(2, 40, b"\xff" * 40, 1)), "format\ndamaged zstd data")
case("zstd-content-size", ".zst", zst(descriptor=0x20, window=b"\x07"), "format\ndamaged zstd data")
case("zstd-window-256M", ".zst", zst(window=b"\x90"), "format\na window of more than 128 MiB")
case("zstd-window-2T", ".zst", zst(window=b"\xf8"), "format\nbyte 5: needs a window")
case("zstd-dictionary", ".zst", zst(descriptor=1, extra=b"\x07"), "format\nneeds a dictionary")
case("zstd-trailing-text", ".zst", Z + SKIP + b"tail!", "format\nbyte %d: 5 bytes of something else "
     "behind the last zstd frame" % len(Z + SKIP))
case("zstd-is-gzip", ".zst", G, "format\nbyte 0: not zstd, which the name's .zst stands for; this "
     "looks like gzip")
case("zstd-is-text", ".zst", TEXT, "format\nnot zstd")
case("zstd-legacy-0.5", ".zst", b"\x25\xb5\x2f\xfd" + bytes(20), "format\nnot zstd")


# ---- LZ4 ----

def rotl(x, r):
    return (x << r | x >> (32 - r)) & M32


def xxh32(data):
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    at = 0
    h = p5
    if len(data) >= 16:
        v = [(p1 + p2) & M32, p2, 0, -p1 & M32]
        while at + 16 <= len(data):
            for i, word in enumerate(struct.unpack_from("<4I", data, at)):
                v[i] = rotl((v[i] + word * p2) & M32, 13) * p1 & M32
            at += 16
        h = sum(rotl(x, r) for x, r in zip(v, (1, 7, 12, 18))) & M32
    h = (h + len(data)) & M32
    while at + 4 <= len(data):
        h = rotl((h + struct.unpack_from("<I", data, at)[0] * p3) & M32, 17) * p4 & M32
        at += 4
    for byte in data[at:]:
        h = rotl((h + byte * p5) & M32, 11) * p1 & M32
    h = (h ^ h >> 15) * p2 & M32
    h = (h ^ h >> 13) * p3 & M32
    return h ^ h >> 16


def lz4(flags=0x74, bd=0x40, extra=b"", hc=None, data=TEXT, size=None, check=None, tail=None):
    """One stored block; 0x74 is version 1, independent blocks, block and content checksums."""
    head = bytes([flags, bd]) + extra
    hc = xxh32(head) >> 8 & 255 if hc is None else hc
    size = 1 << 31 | len(data) if size is None else size
    check = struct.pack("<I", xxh32(data)) if check is None else check
    tail = bytes(4) + struct.pack("<I", xxh32(data)) if tail is None else tail
    return b"\x04\x22\x4d\x18" + head + bytes([hc]) + struct.pack("<I", size) + data + check + tail


L = lz4()
case("lz4-empty-file", ".lz4", b"", "format\nbyte 0: the file is empty")
case("lz4-two-bytes", ".lz4", L[:2], "format\nbyte 2: cut short")
case("lz4-cut-header", ".lz4", L[:6], "format\nbyte 6: cut short")
case("lz4-cut-block", ".lz4", L[:50], "format\nbyte 50: cut short: the file ends inside the LZ4 frame")
case("lz4-no-end-mark", ".lz4", lz4(tail=b""), "format\ncut short")
case("lz4-cut-checksum", ".lz4", L[:-1], "format\ncut short")
case("lz4-header-checksum", ".lz4", lz4(hc=xxh32(b"\x74\x40") >> 8 & 255 ^ 1),
     "format\nwrong header checksum")
case("lz4-block-checksum", ".lz4", lz4(check=b"\1\2\3\4"), "format\nwrong block checksum")
case("lz4-content-checksum", ".lz4", lz4(tail=bytes(4) + b"\1\2\3\4"),
     "format\nwrong checksum (XXH32)")
case("lz4-content-size", ".lz4", lz4(flags=0x7C, extra=struct.pack("<Q", 5)), "format\ndamaged LZ4")
case("lz4-version", ".lz4", lz4(flags=0xB4), "format\ndamaged LZ4 data (ERROR_headerVersion_wrong)")
case("lz4-reserved-flag", ".lz4", lz4(flags=0x76), "format\ndamaged LZ4 data (ERROR_reservedFlag")
case("lz4-block-size-id", ".lz4", lz4(bd=0x30), "format\ndamaged LZ4 data (ERROR_maxBlockSize")
case("lz4-block-too-large", ".lz4", lz4(size=1 << 30), "format\ndamaged LZ4 data")
case("lz4-garbage-block", ".lz4", lz4(flags=0x60, size=len(TEXT), data=b"\xff" * len(TEXT), check=b"",
     tail=bytes(4)), "format\ndamaged LZ4 data (ERROR_decompressionFailed)")
case("lz4-dictionary", ".lz4", lz4(flags=0x75, extra=b"\1\0\0\0"), "format\nneeds a dictionary")
case("lz4-trailing-zeros", ".lz4", L + bytes(3), "format\nbyte %d: 3 bytes of something else behind "
     "the last LZ4 frame" % len(L))
case("lz4-legacy", ".lz4", b"\x02\x21\x4c\x18" + bytes(8),
     "format\nnot LZ4, which the name's .lz4 stands for; this looks like LZ4 data of the legacy")
case("lz4-is-zstd", ".lz4", Z, "format\nnot LZ4, which the name's .lz4 stands for; this looks like "
     "zstd")
case("lz4-is-text", ".lz4", TEXT, "format\nnot LZ4")

assert gzip.decompress(G) == TEXT
root = sys.argv[1] if len(sys.argv) > 1 else "tests/data/invalid/unpack"
shutil.rmtree(root, ignore_errors=True)
for name, (suffix, data, error) in cases.items():
    os.makedirs(os.path.join(root, name))
    with open(os.path.join(root, name, "input" + suffix), "wb") as f:
        f.write(data)
    with open(os.path.join(root, name, "error"), "w", encoding="utf-8") as f:
        f.write(error + "\n")
# What is valid is so for the readers here too: the same pieces, whole.
valid = root.replace("invalid", "valid")
shutil.rmtree(valid, ignore_errors=True)
os.makedirs(valid)
for name, data in {"two.gz": G + gz(flags=0x1C, extra=struct.pack("<H", 3) + b"abcname\0comment\0"),
                   "skips.zst": SKIP + Z + SKIP + zst(zblock(0, len(TEXT), TEXT, 0)
                                                      + zblock(0, 0, b"", 1)) + SKIP,
                   "skips.lz4": SKIP + L + SKIP + lz4(flags=0x60, check=b"", tail=bytes(4))}.items():
    with open(os.path.join(valid, name), "wb") as f:
        f.write(data)
print(len(cases), "cases")
