"""Independent reader and sealer of the encrypted dataset container, version 1 (ADC1).

Written from the specification alone (sections 3 to 7 and 9), with `cryptography` and `cbor2`, so that it and the
Rust crate `alephlab-vault` check each other. Not a product: no storage, no wallets, no limits on memory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CHUNK, TAG, FRAME, SLICE = 16_384, 16, 88, 1 << 20
DATA, PAGE, ROOT, LEAVES = 1, 2, 3, 4


class Refused(Exception):
    """The container breaks a rule; the first argument is the specification's error name."""


def expand(secret: bytes, info: bytes, length: int = 32) -> bytes:
    return HKDFExpand(hashes.SHA512(), length, info).derive(secret)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def dataset_id(owner: bytes, id_random: bytes) -> bytes:
    return sha256(b"aleph-dataset/v1/id\0" + owner + id_random)


def derive(secret: bytes, label: str, dataset: bytes, epoch: int) -> bytes:
    return expand(secret, f"aleph-dataset/v1/{label}\0".encode() + dataset + struct.pack(">I", epoch))


def object_key(secret: bytes, kind: int, dataset: bytes, epoch: int, object_id: bytes) -> bytes:
    parent = derive(secret, "content" if kind == DATA else "manifest", dataset, epoch)
    return expand(parent, b"aleph-dataset/v1/object\0" + object_id)


def schedule(key: bytes, dataset: bytes, frame: bytes, salt: bytes) -> tuple[AESGCM, int, bytes]:
    context = b"aleph-dataset/v1/object\0" + dataset + frame
    block = expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context, 76)
    return AESGCM(block[:32]), int.from_bytes(block[32:44], "big"), block[44:]


def seal_object(secret: bytes, kind: int, dataset: bytes, epoch: int, plaintext: bytes) -> tuple[list, bytes]:
    """Returns the object's table row and its bytes."""
    object_id = os.urandom(16)
    key = object_key(secret, kind, dataset, epoch, object_id)
    hedge = os.urandom(32) + sha256(plaintext) + struct.pack(">Q", len(plaintext))
    salt = hmac.digest(key, b"aleph-dataset/v1/salt\0" + hedge, "sha512")[:24]
    frame = b"ALEPHDS1" + bytes([1, kind, 1, 0]) + struct.pack(">I", epoch) + object_id
    cipher, base, commitment = schedule(key, dataset, frame, salt)
    out = [frame, salt, commitment]
    for index in range(len(plaintext) // CHUNK + 1):
        nonce = (base ^ index).to_bytes(12, "big")
        out.append(cipher.encrypt(nonce, plaintext[index * CHUNK : (index + 1) * CHUNK], b""))
    sealed = b"".join(out)
    digest = sha256(sealed)
    return [object_id, epoch, len(plaintext), len(sealed), digest, digest.hex(), None], sealed


def open_object(secret: bytes, kind: int, dataset: bytes, epoch: int, sealed: bytes, row: list) -> bytes:
    """Opens in the normative order; `row` is the table row, with object_id None for a root."""
    object_id, _, _, length, digest, _, _ = row
    if len(sealed) != length:
        raise Refused("E_LENGTH")
    if sha256(sealed) != digest:
        raise Refused("E_HASH")
    if sealed[:12] != b"ALEPHDS1" + bytes([1, kind, 1, 0]) or sealed[12:16] != struct.pack(">I", epoch):
        raise Refused("E_FRAME")
    if object_id not in (None, sealed[16:32]):
        raise Refused("E_FRAME")
    key = object_key(secret, kind, dataset, epoch, sealed[16:32])
    cipher, base, commitment = schedule(key, dataset, sealed[:32], sealed[32:56])
    if not hmac.compare_digest(commitment, sealed[56:FRAME]):
        raise Refused("E_COMMIT")
    body, out, index = sealed[FRAME:], [], 0
    try:
        while index * (CHUNK + TAG) < len(body):
            piece = body[index * (CHUNK + TAG) : (index + 1) * (CHUNK + TAG)]
            out.append(cipher.decrypt((base ^ index).to_bytes(12, "big"), piece, b""))
            index += 1
    except InvalidTag as error:
        raise Refused("E_TAG") from error
    if len(out[-1]) >= CHUNK:
        raise Refused("E_LENGTH")
    return b"".join(out)


def encode(value) -> bytes:
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes):
    value = cbor2.loads(data)
    if encode(value) != data:
        raise Refused("E_CBOR")
    return value


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 9162 over leaf hashes."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:]))


def head_cbor(head: dict) -> bytes:
    """Keys 1 to 10 from the JSON form of a head."""
    root = head["root"]
    fields = {
        1: bytes.fromhex(head["dataset_id"]),
        2: bytes.fromhex(head["owner"][2:]),
        3: head["version"],
        4: bytes.fromhex(head["prev"]),
        5: head["epoch"],
        6: bytes.fromhex(head["epoch_commitment"]),
        7: [root["item_hash"], root["length"], bytes.fromhex(root["sha256"])],
        9: [head["created"], head.get("not_after")],
        10: bytes.fromhex(head["id_random"]),
    }
    if head.get("writers"):
        fields[8] = [[bytes.fromhex(w["address"][2:]), w["expires"]] for w in head["writers"]]
    return encode(fields)


@dataclass
class File:
    """A file as the manifest describes it; content None for a directory."""

    content: bytes | None
    mime: str = "application/octet-stream"
    attributes: dict[str, str] = field(default_factory=dict)
    mtime: int | None = None
    executable: bool = False


def open_tree(folder: Path, head: dict, secret: bytes) -> dict[str, File]:
    """Opens the version that `head` (JSON form) names from `folder`/objects, checking every rule on the way."""
    dataset, epoch = bytes.fromhex(head["dataset_id"]), head["epoch"]
    if dataset_id(bytes.fromhex(head["owner"][2:]), bytes.fromhex(head["id_random"])) != dataset:
        raise Refused("E_HEAD_SIG")
    if derive(secret, "commit", dataset, epoch).hex() != head["epoch_commitment"]:
        raise Refused("E_EPOCH")
    fetch = lambda name: (folder / "objects" / name).read_bytes()  # noqa: E731
    at = head["root"]
    row = [None, epoch, None, at["length"], bytes.fromhex(at["sha256"]), at["item_hash"], None]
    root = decode(open_object(secret, ROOT, dataset, epoch, fetch(at["item_hash"]), row))
    if root[1] != dataset or root[2] != head["version"]:
        raise Refused("E_TREE")
    secrets = {epoch: secret, **root.get(6, {})}
    rows = root[4]
    if tree_hash([sha256(b"\0" + encode(row)) for row in rows]) != root[12]:
        raise Refused("E_TREE")

    def plaintext(number: int, kind: int) -> bytes:
        row = rows[number]
        opened = open_object(secrets[row[1]], kind, dataset, row[1], fetch(row[5]), row)
        if len(opened) != row[2] or len(opened) > 1 << root[3]:
            raise Refused("E_LENGTH")
        return opened

    entries = []
    for first, last, number, count in root[5]:
        page = decode(plaintext(number, PAGE))
        if page[1] != "f" or len(page[2]) != count or [page[2][0][1], page[2][-1][1]] != [first, last]:
            raise Refused("E_TREE")
        entries += page[2]
    check_paths(entries)
    check_leaves(rows, plaintext, fetch)
    files = read_entries(entries, plaintext)
    kinds = [file.content is not None for file in files.values()]
    if root[7] != [sum(kinds), len(kinds) - sum(kinds), sum(len(f.content or b"") for f in files.values())]:
        raise Refused("E_TREE")
    return files


def check_paths(entries: list[dict]) -> None:
    paths = [entry[1] for entry in entries]
    if paths != sorted(set(paths), key=str.encode):
        raise Refused("E_TREE")
    if len({unicodedata.normalize("NFC", path.casefold()) for path in paths}) != len(paths):
        raise Refused("E_PATH")
    directories = {entry[1] for entry in entries if entry[2] == 1}
    for path in paths:
        parts = path.split("/")
        bad = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        odd = "\\" in path or any(unicodedata.category(letter) == "Cc" for letter in path)
        if bad or odd or unicodedata.normalize("NFC", path) != path:
            raise Refused("E_PATH")
        if len(parts) > 1 and path.rpartition("/")[0] not in directories:
            raise Refused("E_PATH")


def check_leaves(rows: list[list], plaintext, fetch) -> None:
    """Leaf tables hold the leaves of the objects that name them, in the order of the object table."""
    tables: dict[int, bytes] = {}
    for row in rows:
        if row[6] is not None:
            sealed = fetch(row[5])
            leaves = [sha256(b"\0" + sealed[at : at + SLICE]) for at in range(0, len(sealed), SLICE)]
            tables[row[6]] = tables.get(row[6], b"") + b"".join(leaves)
    for number, leaves in tables.items():
        if plaintext(number, LEAVES) != leaves:
            raise Refused("E_TREE")


def read_entries(entries: list[dict], plaintext) -> dict[str, File]:
    cache: dict[int, bytes] = {}
    covered: dict[int, list[tuple[int, int]]] = {}
    files = {}
    for entry in entries:
        if entry[2] == 1:
            files[entry[1]] = File(None)
            continue
        content = b""
        for number, offset, length in entry[6]:
            if number not in cache:
                cache[number] = plaintext(number, DATA)
            if offset + length > len(cache[number]):
                raise Refused("E_EXTENT")
            content += cache[number][offset : offset + length]
            covered.setdefault(number, []).append((offset, offset + length))
        if len(content) != entry[3] or sha256(content) != entry[5]:
            raise Refused("E_TREE")
        files[entry[1]] = File(content, entry[4], entry.get(10, {}), entry.get(7), entry.get(9, False))
    for number, runs in covered.items():
        at = 0
        for start, end in [*sorted(runs), (len(cache[number]),) * 2]:
            if any(cache[number][at:start]):
                raise Refused("E_EXTENT")
            at = max(at, end)
    return files


def padme(length: int) -> int:
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def seal_tree(
    folder: Path, files: dict[str, File], dataset: bytes, secret: bytes, *, version=1, epoch=1, obj_log2=20, title=None
) -> dict:
    """Seals `files` into `folder`/objects and returns the root's place as in a head's JSON.

    Packs in its own way (every file after the other, split where an object is full), which the format allows.
    """
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    rows, entries, filling, capacity = [], [], b"", 1 << obj_log2

    def emit(kind: int, plaintext: bytes) -> list:
        row, sealed = seal_object(secret, kind, dataset, epoch, plaintext)
        (folder / "objects" / row[5]).write_bytes(sealed)
        return row

    for path in sorted(files, key=str.encode):
        file = files[path]
        entry: dict = {1: path, 2: int(file.content is None)}
        if file.content is not None:
            extents, at = [], 0
            while at < len(file.content):
                take = min(capacity - len(filling), len(file.content) - at)
                extents.append([len(rows), len(filling), take])
                filling += file.content[at : at + take]
                at += take
                if len(filling) == capacity:
                    rows.append(emit(DATA, filling))
                    filling = b""
            entry |= {3: len(file.content), 4: file.mime, 5: sha256(file.content), 6: extents, 8: 0}
            if file.executable:
                entry[9] = True
        if file.mtime is not None:
            entry[7] = file.mtime
        if file.attributes:
            entry[10] = file.attributes
        entries.append(entry)
    if filling:
        rows.append(emit(DATA, filling.ljust(padme(len(filling)), b"\0")))
    pages = []
    for at in range(0, len(entries), 3):
        page = entries[at : at + 3]
        pages.append([page[0][1], page[-1][1], len(rows), len(page)])
        rows.append(emit(PAGE, encode({1: "f", 2: page})))
    contents = [file.content for file in files.values() if file.content is not None]
    root = {
        1: dataset,
        2: version,
        3: obj_log2,
        4: rows,
        5: pages,
        7: [len(contents), len(files) - len(contents), sum(map(len, contents))],
        12: tree_hash([sha256(b"\0" + encode(row)) for row in rows]),
    }
    if title is not None:
        root[8] = title
    row = emit(ROOT, encode(root))
    return {"item_hash": row[5], "length": row[3], "sha256": row[4].hex()}
