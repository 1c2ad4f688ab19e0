#!/usr/bin/env python3
"""Makes the corpora of what has no goldens: `./make.py` in this folder, with nothing but Python.

Databases have Nix's schema (read from `tvix-store-api/src/local_fs/db/schema.rs`) and small pages.
"""

import base64
import bz2
import gzip
import lzma
import os
import re
import sqlite3
import struct
import zlib

HASH = "sha256:1b2b9f4b9a2c7ec1e6b1c37a7dd1a2e4a6a4c0fd4b4a8d2f5a0b1c2d3e4f5a6b"
ONE = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-one"
TWO = "/nix/store/01bgd045z0d4icpbc2yyz4gx48ak44la-two.drv"


def write(target, name, data):
    os.makedirs(target, exist_ok=True)
    with open(f"{target}/{name}", "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def database(name, *statements, schema=True, patch=lambda data: data):
    """A whole file, as the first byte says."""
    file = "/tmp/corpus-of-tvix.sqlite"
    if os.path.exists(file):
        os.remove(file)
    connection = sqlite3.connect(file)
    connection.execute("pragma page_size = 512")
    if schema:
        text = open("../../../../tvix-store-api/src/local_fs/db/schema.rs").read()
        for part in re.findall(r'SCHEMA: &str = "(.*?)";\n', text, re.S):
            connection.executescript(part)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    data = open(file, "rb").read()
    os.remove(file)
    write("database", name, b"\0" + patch(data))


def loop(data):
    """Each inner page of the tree of valid paths leads to the same leaf, again and again: ten levels of
    fifty make more rows than there are bytes in the world."""
    page = 512
    pages = [data[at : at + page] for at in range(0, len(data), page)]
    # The root of the first table in the schema is page 2.
    leaf = pages[1]
    assert leaf[0] == 13
    count = len(pages)
    pages.append(leaf)
    below = len(pages)
    for level in range(10):
        cells = b""
        offsets = []
        at = page
        for cell in range(50):
            # Its child, and the largest key below it.
            text = struct.pack(">I", below) + b"\x01"
            at -= len(text)
            cells = text + cells
            offsets.append(at)
        header = struct.pack(">BHHHBI", 5, 0, 50, at, 0, below)
        body = header + b"".join(struct.pack(">H", offset) for offset in offsets)
        inner = body + bytes(at - len(body)) + cells
        assert len(inner) == page
        if level == 9:
            pages[1] = inner
        else:
            pages.append(inner)
            below = len(pages)
    data = b"".join(pages)
    # How many pages there are is in the header.
    assert count < len(pages)
    return data[:28] + struct.pack(">I", len(pages)) + data[32:]


ROW = f"insert into ValidPaths (path, hash, registrationTime) values ('{ONE}', '{HASH}', 1)"
BARE = "path text, hash text, registrationTime integer, deriver text, narSize, ultimate, sigs text, ca text"
OTHERS = [
    "create table Refs (referrer integer, reference integer)",
    "create table DerivationOutputs (drv integer, id text, path text)",
]

database(
    "good",
    ROW,
    f"insert into ValidPaths values (2, '{TWO}', '{HASH}', 1, null, 5, 1, 'a:AAAA b:BBBB', 'text:{HASH}')",
    "insert into Refs values (2, 1)",
    f"insert into DerivationOutputs values (2, 'out', '{ONE}')",
    f"insert into Realisations values (1, '{HASH}', 'out', 1, 'a:AAAA')",
)
database("empty", schema=False)
database(
    "computed-for-ever",
    f"create view ValidPaths as with recursive n(i) as (select 1 union all select i + 1 from n) "
    f"select i as id, '{ONE}' as path, '{HASH}' as hash, i as registrationTime, null as deriver, "
    "1 as narSize, null as ultimate, null as sigs, null as ca from n",
    *OTHERS,
    schema=False,
)
database(
    "computed-large",
    f"create table ValidPaths (id integer primary key, {BARE.replace('hash text', 'hash text as (zeroblob(999999999))')})",
    f"insert into ValidPaths (id, path, registrationTime) values (1, '{ONE}', 1)",
    *OTHERS,
    schema=False,
)
database(
    "computed-elsewhere",
    f"create table ValidPaths (id integer primary key, {BARE})",
    *OTHERS,
    "pragma writable_schema = on",
    # A table that a module of SQLite makes up as it is read has no page.
    "update sqlite_master set rootpage = 0, sql = 'create virtual table ValidPaths using dbstat' "
    "where name = 'ValidPaths'",
    schema=False,
)
database(
    "same-pages-again",
    f"create table ValidPaths (id integer primary key, {BARE})",
    f"insert into ValidPaths (id, path, hash, registrationTime) values (1, '{ONE}', '{HASH}', 1)",
    *OTHERS,
    schema=False,
    patch=loop,
)
database("wrong-types", f"insert into ValidPaths values (1, '{ONE}', x'ff00', 'x', x'00', 'y', 'z', x'01', x'02')")
database("not-utf-8", f"insert into ValidPaths values (1, '{ONE}', cast(x'fffe' as text), 1, null, 1, 1, null, null)")
write("database", "unchanged", b"\x01")
write("database", "changed", b"\x01" + bytes([0, 16, 255, 2, 3, 4]))
write("database", "columns", b"\x02")
write("database", "columns-hostile", b"\x02" + b"\xff".join([b"", b"b123", b"i\xff\xff", b"/nix/store/..", b"n", b"r", b"\x1b[2J", b"fixed:"]))

good = "00bgd045z0d4icpbc2yyz4gx48ak44la"
for number, text in enumerate(
    [f"{good}-name", f"/nix/store/{good}-name.drv", f"{good}-.", f"{good}-..", f"{good}-.-a", f"{good}-..-a",
     f"{good}-{'n' * 211}", f"{good}-{'n' * 212}", f"{good.replace('0', 'e')}-name", f"{good}-", good, f"{good}_x",
     f"/nix/store/{good}-name/", f"/nix/store//{good}-name", f"/nix/store/../{good}-name", ""]
):
    write("store_path", f"{number:02}", text)

for number, text in enumerate(["name:c2lnbmF0dXJl", "name:", ":c2ln", "a:b:c", "name:c2lnbmF0dXJl==="]):
    write("signature", f"{number:02}", text)
write("nar", "length-near-2-64", b"\x0d" + bytes(7) + b"nix-archive-1\0\0\0" + b"\xf7" + b"\xff" * 7)
write("nar", "empty", b"")
write("aterm", "empty", b"")
write("aterm", "unterminated", b'Derive([("out","')
write("aterm", "newer", b'DrvWithVersion("xp-dyn-drv",[],[],[],"a","b",[],[])')
write("narinfo", "empty", b"")
write("narinfo", "zero", b"StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x\nURL: x\nNarHash: sha256:" + b"0" * 52 + b"\nNarSize: 0\n")

# Streams, each after the number of its coding in `Coding::ALL`; 9 stands for what its first bytes show. Python has no
# encoder for some: those are what `zstd`, `brotli` and `lz4` make of the same text.
TEXT = b"some text, again and again\n" * 40
ZSTD = base64.b64decode("KLUv/WQ4A/0AAKhzb21lIHRleHQsIGFnYWluIGFuZAoCABr4/EKxwgT2J5+S")
BROTLI = base64.b64decode("GzcEICQVQFhakEEmaUwrLKETeoToLkL5Ogs=")
LZ4 = base64.b64decode("BCJNGGxAOAQAAAAAAAArJwAAAPIFc29tZSB0ZXh0LCBhZ2FpbiBhbmQKAB8KGwD/////CVBnYWluCgAAAAAKBn91")
LEGACY = base64.b64decode("AiFMGCcAAADyBXNvbWUgdGV4dCwgYWdhaW4gYW5kCgAfChsA/////wlQZ2Fpbgo=")
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
LZMA = lzma.compress(TEXT, format=lzma.FORMAT_ALONE, preset=0)
LZIP = (
    b"LZIP\x01\x12" + LZMA[13:] + struct.pack("<IQ", zlib.crc32(TEXT), len(TEXT)) + struct.pack("<Q", len(LZMA) - 13 + 26)
)
STREAMS = {
    "xz": (0, lzma.compress(TEXT, preset=0)),
    "xz-two": (0, lzma.compress(TEXT, preset=0, check=lzma.CHECK_NONE) * 2 + b"\0\0\0\0"),
    "lzma": (1, LZMA),
    "lzma-of-known-size": (1, LZMA[:5] + struct.pack("<Q", len(TEXT)) + LZMA[13:]),
    "lzip": (2, LZIP * 2),
    "zstd": (3, ZSTD),
    "zstd-two": (3, SKIPPABLE + ZSTD + SKIPPABLE + ZSTD),
    "gzip": (4, gzip.compress(TEXT, mtime=0)),
    "gzip-two": (4, gzip.compress(TEXT, mtime=0) * 2 + b"garbage"),
    "deflate": (5, zlib.compress(TEXT)),
    "deflate-raw": (5, zlib.compress(TEXT)[2:-4]),
    "bzip2": (6, bz2.compress(TEXT)),
    "bzip2-two": (6, bz2.compress(TEXT) * 2 + b"garbage"),
    "br": (7, BROTLI),
    "lz4": (8, LZ4),
    "lz4-two": (8, SKIPPABLE + LEGACY + LZ4 + LEGACY),
    "bomb": (4, gzip.compress(gzip.compress(bytes(3 << 20), mtime=0), mtime=0)),
    "large": (3, b"\x28\xb5\x2f\xfd\0\x88" + b"\x0a\0\x20\0" * 40),
}
for name, (number, stream) in STREAMS.items():
    write("decode", name, bytes([number]) + stream)
    write("decode", f"{name}-sniffed", b"\x09" + stream)
