"""A small lake of real files: PNG images, a tar shard of them, and a safetensors file."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

IMAGES, CLASSES, SIDE = 2400, 12, 176
SHARD_SAMPLES = 150
TENSORS, TENSOR_BYTES = 8, 4 << 20


def png(pixels: bytes, side: int) -> bytes:
    """An 8-bit RGB image of *side* x *side* pixels (PNG specification, second edition)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = side * 3
    raw = b"".join(b"\0" + pixels[y * row : (y + 1) * row] for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw, 1))
        + chunk(b"IEND", b"")
    )


def safetensors(tensors: dict[str, bytes]) -> bytes:
    """float32 vectors in the safetensors format: length, JSON header, data."""
    header: dict[str, object] = {}
    offset = 0
    for name, data in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def make_lake(root: Path, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Write the lake below *root*; returns path -> SHA-256 of every file."""
    generator = random.Random(20)
    digests: dict[str, str] = {}

    def put(name: str, data: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()

    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        for n in range(IMAGES):
            image = png(generator.randbytes(SIDE * SIDE * 3), SIDE)
            label = n % CLASSES
            put(f"train/class{label:02}/{n:05}.png", image)
            if n < SHARD_SAMPLES:
                for suffix, data in (("png", image), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{n:05}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
            if n % 100 == 0:
                progress(n, IMAGES)
    put("shards/train-000.tar", shard.getvalue())
    tensors = {f"layer{n}.weight": generator.randbytes(TENSOR_BYTES) for n in range(TENSORS)}
    put("model.safetensors", safetensors(tensors))
    progress(IMAGES, IMAGES)
    return digests
