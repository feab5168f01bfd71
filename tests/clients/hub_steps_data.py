"""Files that steps publish. Apart from `hub_steps`, which is a program and asks for its environment."""

import json
import os
import struct

CARD = "---\nlicense: mit\npipeline_tag: text-generation\nlibrary_name: candle\ntags:\n- tiny\n---\n\n# Steps\n"


def safetensors(tensors: int, bytes_each: int) -> bytes:
    """Weights with something for every way to compress a chunk: noise, numbers that differ little, zeros."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for n in range(tensors):
        header[f"layer.{n}"] = {"dtype": "F32", "shape": [bytes_each // 4], "data_offsets": [at, at + bytes_each]}
        at += bytes_each
    head = json.dumps(header).encode()
    noise = os.urandom(bytes_each)
    numbers = struct.pack(f"<{bytes_each // 4}f", *(1 + n / 1e6 for n in range(bytes_each // 4)))
    kinds = [noise, numbers, bytes(bytes_each)]
    return struct.pack("<Q", len(head)) + head + b"".join(kinds[n % 3] for n in range(tensors))
