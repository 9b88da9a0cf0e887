"""The damage that `fuzz_inputs` does: to bytes, to values of JSON, to words of a text, to the tags of a TIFF file."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

UNDAMAGED = 0.1  # share of inputs that stay as they are: a reader that refuses everything is no reader
BOMB_BYTES = 2**28
TIMES = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255)
NUMBERS = (0, -1, 1, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 10**6, 2**64 - 1)
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**6, 10**30, 1e308, -1e308, float("nan"), float("inf"), 0.5, "", " ", ".", "..",
    "../../etc/passwd", "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "x" * 5000, "$import os", "@plan", "%train.json",
    "$__import__('os').system('false')", "a/../../b.nii", "*", "~", "C:\\a", [], {}, [[]], [None], {"a": 1},
    [10**9] * 3, "1e999", "-0", "\u202e",
)  # fmt: skip


def damaged(content: bytes, damage: str, rng: random.Random) -> bytes:
    """A file as it may come from elsewhere.

    Args:
        content: of the intact file.
        damage: `binary`, `gzip` (inside the compressed stream), `json` (values of the document), `text`, `tiff` (tags)
            or `png` (inside the chunks, whose checksums are made anew).
        rng: decides all.
    """
    if rng.random() < UNDAMAGED:
        return content
    if damage == "gzip":
        inner = _binary(zlib.decompress(content, wbits=31), rng)
        return _zeros_after(inner, BOMB_BYTES if rng.random() < 0.02 else 0, wbits=31)
    if damage == "json" and rng.random() < 0.8:
        return _json(content, rng)
    if damage == "text" and rng.random() < 0.8:
        return _text(content, rng)
    if damage == "tiff":
        return _tiff(content, rng)
    if damage == "png":
        return _png(content, rng)
    return _binary(content, rng)


def _zeros_after(content: bytes, zeros: int, wbits: int = 15) -> bytes:
    """Content and so many zeros, compressed without having them all in memory."""
    packer, piece = zlib.compressobj(1, wbits=wbits), bytes(2**20)
    parts = [packer.compress(content), *(packer.compress(piece) for _ in range(zeros // len(piece))), packer.flush()]
    return b"".join(parts)


def _binary(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        # headers are at the beginning, directories of TIFF at the end
        reach = min(len(found), rng.choice((64, 400, len(found), len(found))))
        at = rng.randrange(reach) if reach else 0
        at = len(found) - 1 - at if reach and rng.random() < 0.2 else at
        action = rng.randrange(7)
        if action == 0 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif action == 1 and found:
            found[at] = rng.choice(TIMES)
        elif action == 2:
            width, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            found[at : at + width] = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, order)
        elif action == 3:
            del found[at:]
        elif action == 4:
            del found[at : at + rng.randrange(1, 40)]
        elif action == 5:
            found[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            piece = rng.randrange(1, 60)
            other = rng.randrange(max(len(found), 1))
            found[at : at + piece] = found[other : other + piece]
    return bytes(found)


def _text(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("latin-1")
    for _ in range(rng.choice((1, 1, 2))):
        words = [word for word in text.replace("=", " ").replace(",", " ").split() if word]
        if words:
            hostile = rng.choice([*map(str, HOSTILE), *map(str, NUMBERS), "\n", ",", '"', "=", "\0", "1" * 5000])
            text = text.replace(rng.choice(words), hostile, 1)
    return text.encode("utf-8", "surrogatepass")


def _json(content: bytes, rng: random.Random) -> bytes:
    document = json.loads(content)
    kind = rng.randrange(20)
    if kind == 0:
        return b"[" * 100_000 + b"]" * 100_000
    if kind == 1:
        return content.replace(b"1", b"1" * 5000, 1)
    if kind == 2:
        return json.dumps(rng.choice(HOSTILE)).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.randrange(5)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif action == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = deepcopy(other_holder[other_key])
        elif action == 3 and isinstance(holder, dict):
            holder[str(rng.choice(HOSTILE))] = rng.choice(HOSTILE)
        else:
            holder[key] = rng.choice(HOSTILE)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


def _tiff(content: bytes, rng: random.Random) -> bytes:
    """Little-endian TIFF, as Pillow writes it, with other types, counts and values in its directories."""
    found, entries = bytearray(content), []
    at = struct.unpack_from("<I", content, 4)[0]
    while at and len(entries) < 1000:
        number = struct.unpack_from("<H", content, at)[0]
        entries += [at + 2 + 12 * n for n in range(number)] + [at + 2 + 12 * number]
        at = struct.unpack_from("<I", content, entries[-1])[0]
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.choice(entries)
        action = rng.randrange(5)
        if action == 0:  # the tag
            struct.pack_into(
                "<H",
                found,
                place,
                rng.choice(
                    (
                        254,
                        256,
                        257,
                        258,
                        259,
                        262,
                        273,
                        277,
                        278,
                        279,
                        284,
                        317,
                        320,
                        322,
                        323,
                        324,
                        325,
                        338,
                        339,
                        347,
                        530,
                        65535,
                    )
                ),
            )
        elif action == 1 and place + 4 <= len(found):  # its type
            struct.pack_into("<H", found, place + 2, rng.randrange(20))
        elif action == 2 and place + 8 <= len(found):  # how many values
            struct.pack_into("<I", found, place + 4, rng.choice(NUMBERS) % 2**32)
        elif place + 12 <= len(found):  # the value or where it stands
            value = rng.choice((*NUMBERS, rng.randrange(len(found)), rng.randrange(8)))
            struct.pack_into("<I", found, place + 8, value % 2**32)
        else:  # the next directory
            struct.pack_into("<I", found, place, rng.randrange(len(found)))
    return bytes(found)


def _png(content: bytes, rng: random.Random) -> bytes:
    signature, at, chunks = content[:8], 8, list[tuple[bytes, bytes]]()
    while at < len(content):
        size = struct.unpack_from(">I", content, at)[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    which = rng.randrange(len(chunks))
    name, inner = chunks[which]
    action = rng.randrange(8)
    if action == 0:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[which])
    elif action == 1:
        del chunks[which]
    elif action == 2:
        chunks[which] = (rng.choice((b"PLTE", b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"eXIf", b"acTL", b"IDAT")), inner)
    elif action == 3:
        bomb = _zeros_after(b"", BOMB_BYTES // 16)
        chunks.insert(1, (b"zTXt", b"a\0\0" + bomb) if rng.random() < 0.5 else (b"iCCP", b"a\0\0" + bomb))
    elif name == b"IDAT":
        chunks[which] = (name, zlib.compress(_binary(zlib.decompress(inner), rng)))
    else:
        chunks[which] = (name, _binary(inner, rng))
    return signature + b"".join(
        struct.pack(">I", len(inner)) + name + inner + struct.pack(">I", zlib.crc32(name + inner))
        for name, inner in chunks
    )
