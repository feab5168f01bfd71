"""Cross-check of the vault with `adc1.py`: each opens what the other sealed, and both refuse the same damage.

Needs the built example `vault_vectors` of the vault. 20 trees each way; 1,000 with ALEPHLAB_TEST_LONG=1.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import adc1
import adc1_grants as grants
import pytest
from cryptography.hazmat.primitives import hpke
from support import PROGRAMS

TREES = range(1000 if os.environ.get("ALEPHLAB_TEST_LONG") == "1" else 20)
# The key 01 x 32 and its address, from the protocol reference.
WALLET, OWNER = "01" * 32, bytes.fromhex("1a642f0E3c3aF545E7AcBD38b07251B3990914F1")


def vectors(*args: object) -> subprocess.CompletedProcess[str]:
    program = PROGRAMS / "examples" / "vault_vectors"
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=120, check=False)


def described(files: dict[str, adc1.File]) -> dict:
    """The form in which the Rust side prints a tree."""
    return {
        path: {"directory": True}
        if file.content is None
        else {
            "sha256": adc1.sha256(file.content).hex(),
            "size": len(file.content),
            "mime": file.mime,
            "attributes": file.attributes,
            "mtime": file.mtime,
            "executable": file.executable,
        }
        for path, file in files.items()
    }


def random_tree(seed: int) -> dict[str, adc1.File]:
    source = random.Random(seed)
    borders = [0, 1, 16_383, 16_384, 16_385, 1_048_575, 1_048_576, 1_048_577]
    files = {"leer": adc1.File(None), "größe": adc1.File(None), "größe/數據": adc1.File(None)}
    for index in range(source.randrange(1, 9)):
        size = source.choice(borders) if source.random() < 0.5 else source.randrange(700_000)
        files[f"{source.choice(['größe', 'größe/數據'])}/{index}.bin"] = adc1.File(
            source.randbytes(size),
            source.choice(["text/csv", "application/octet-stream"]),
            {"k" * (1 + 11 * note): f"w{note}" for note in range(source.randrange(4))},
            source.choice([None, 0, 1_700_000_000, 2**40]),
            source.random() < 0.5,
        )
    return files


@pytest.mark.parametrize("seed", TREES)
def test_revisions_open_here_each_with_its_own_secret(seed: int, tmp_path: Path) -> None:
    run = vectors("revise", tmp_path, seed)
    assert run.returncode == 0, run.stderr
    revisions = json.loads(run.stdout)
    weights = []
    for revision in revisions:
        files = adc1.open_tree(tmp_path, revision["head"], bytes.fromhex(revision["secret"]))
        assert described(files) == revision["files"]
        weights.append({path: file.content for path, file in files.items() if path.endswith(".safetensors")})
    assert weights[0]["w.safetensors"] != weights[1]["w.safetensors"]
    assert set(weights[2].values()) == {weights[1]["w.safetensors"]}
    # One tensor of 1 MiB and what shared an object with a file that is gone, then manifest and card.
    assert (1 << 20) < revisions[1]["stored"] < revisions[0]["stored"]
    assert revisions[2]["stored"] < 100_000
    for secret, head in [(0, 1), (1, 0), (2, 1)]:
        with pytest.raises(adc1.Refused):
            adc1.open_tree(tmp_path, revisions[head]["head"], bytes.fromhex(revisions[secret]["secret"]))


def write_sealed(
    folder: Path, root: dict, secret: bytes, id_random: bytes, epoch: int, version: int, granted: bytes | None = None
) -> dict:
    """With a grant of `granted`, or the secret, for each kind of key."""
    dataset, key = adc1.dataset_id(OWNER, id_random), grants.Key(os.urandom(64))
    wrapped = [
        grants.seal_grant(kem, key, dataset, epoch, OWNER, granted or secret) for kem in (grants.X25519, grants.XWING)
    ]
    (folder / "reader.key").write_text(key.secrets.hex())
    (folder / "reader.key").chmod(0o600)
    prev = ("00" if version == 1 else "77") * 32
    sealed = {
        "wallet": WALLET,
        "secret": secret.hex(),
        "id_random": id_random.hex(),
        "epoch": epoch,
        "version": version,
        "prev": prev,
        "root": root,
        "created": 1_790_000_000,
        "grants": wrapped,
    }
    (folder / "sealed.json").write_text(json.dumps(sealed))
    return sealed | {
        "dataset_id": dataset.hex(),
        "owner": "0x" + OWNER.hex(),
        "epoch_commitment": adc1.derive(secret, "commit", dataset, epoch).hex(),
    }


@pytest.mark.parametrize("seed", TREES)
def test_python_opens_what_rust_sealed(tmp_path: Path, seed: int) -> None:
    run = vectors("seal", tmp_path, seed)
    assert run.returncode == 0, run.stderr
    sealed = json.loads(run.stdout)
    assert adc1.sha256(adc1.head_cbor(sealed["head"])).hex() == sealed["head_hash"]
    key = grants.Key(bytes.fromhex((tmp_path / "reader.key").read_text()))
    assert [grant["kem_id"] for grant in sealed["grants"]] == [grants.XWING, grants.X25519]
    secrets = {grants.open_grant(grant, key) for grant in sealed["grants"]}
    assert secrets == {bytes.fromhex(sealed["secret"])}
    files = adc1.open_tree(tmp_path, sealed["head"], secrets.pop())
    assert described(files) == sealed["files"]


@pytest.mark.parametrize("seed", TREES)
def test_rust_opens_what_python_sealed(tmp_path: Path, seed: int) -> None:
    files, secret, id_random = random_tree(seed), os.urandom(32), os.urandom(16)
    epoch, version = 1 + seed % 3, 1 + seed % 2
    dataset = adc1.dataset_id(OWNER, id_random)
    root = adc1.seal_tree(tmp_path, files, dataset, secret, version=version, epoch=epoch, title="Bäume")
    head = write_sealed(tmp_path, root, secret, id_random, epoch, version)
    run = vectors("open", tmp_path)
    assert run.returncode == 0, run.stderr
    opened = json.loads(run.stdout)
    assert opened["files"] == described(files)
    assert opened["title"] == "Bäume"
    assert opened["head_hash"] == adc1.sha256(adc1.head_cbor(head)).hex()


def test_rust_refuses_grants_of_another_secret_that_python_made(tmp_path: Path) -> None:
    secret, id_random = os.urandom(32), os.urandom(16)
    root = adc1.seal_tree(tmp_path, {"a": adc1.File(b"x")}, adc1.dataset_id(OWNER, id_random), secret)
    write_sealed(tmp_path, root, secret, id_random, 1, 1, granted=os.urandom(32))
    run = vectors("open", tmp_path)
    assert run.returncode != 0
    assert "Epoch" in run.stderr


def test_the_envelopes_of_python_are_those_of_another_library() -> None:
    key = grants.Key(os.urandom(64))
    known = {
        grants.X25519: (hpke.KEM.X25519, key.x25519),
        grants.XWING: (hpke.KEM.MLKEM768_X25519, hpke.MLKEM768X25519PrivateKey(*key.xwing)),
    }
    for kem, (theirs, private) in known.items():
        suite = hpke.Suite(theirs, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        sealed = suite.encrypt(b"secret", private.public_key(), info=b"info")
        enc, ciphertext = sealed[: theirs.enc_length()], sealed[theirs.enc_length() :]
        cipher, nonce = grants.schedule(kem, grants.decapsulate(kem, key, enc), b"info")
        assert cipher.decrypt(nonce, ciphertext, b"") == b"secret"
        shared, enc = grants.encapsulate(kem, key.public(kem))
        cipher, nonce = grants.schedule(kem, shared, b"info")
        assert suite.decrypt(enc + cipher.encrypt(nonce, b"secret", b""), private, info=b"info") == b"secret"


def test_rust_refuses_what_python_sealed_under_another_secret(tmp_path: Path) -> None:
    secret, id_random = os.urandom(32), os.urandom(16)
    root = adc1.seal_tree(tmp_path, {"a": adc1.File(b"x")}, adc1.dataset_id(OWNER, id_random), secret)
    write_sealed(tmp_path, root, os.urandom(32), id_random, 1, 1)
    run = vectors("open", tmp_path)
    assert run.returncode != 0
    assert "Commit" in run.stderr


@pytest.mark.parametrize("path", ["../a", "a\\b", "A/x", "e\u0301"])
def test_rust_refuses_paths_that_python_let_through(tmp_path: Path, path: str) -> None:
    secret, id_random = os.urandom(32), os.urandom(16)
    files = {path: adc1.File(b"x"), "a": adc1.File(None)}
    root = adc1.seal_tree(tmp_path, files, adc1.dataset_id(OWNER, id_random), secret)
    write_sealed(tmp_path, root, secret, id_random, 1, 1)
    run = vectors("open", tmp_path)
    assert run.returncode != 0
    assert "Path" in run.stderr


def test_python_refuses_damage_with_the_names_of_the_specification(tmp_path: Path) -> None:
    sealed = json.loads(vectors("seal", tmp_path, 7).stdout)
    secret = bytes.fromhex(sealed["secret"])
    with pytest.raises(adc1.Refused, match="E_EPOCH"):
        adc1.open_tree(tmp_path, sealed["head"], os.urandom(32))
    name = tmp_path / "objects" / sealed["head"]["root"]["item_hash"]
    whole = name.read_bytes()
    name.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(adc1.Refused, match="E_HASH"):
        adc1.open_tree(tmp_path, sealed["head"], secret)
    name.write_bytes(whole[:-1])
    with pytest.raises(adc1.Refused, match="E_LENGTH"):
        adc1.open_tree(tmp_path, sealed["head"], secret)


def test_python_reproduces_the_known_answers() -> None:
    dataset = adc1.dataset_id(b"\x11" * 20, b"\x22" * 16)
    assert dataset.hex() == "38e44b282fd2a29512e221b689e18a2731048bd765ab881cfc54547733564a1a"
    secret = bytes(range(32))
    assert adc1.derive(secret, "commit", dataset, 1).hex() == (
        "552db7ee28a0ee6e3a6a376e671d694a8af6fc0470ea64d6738ba7224715846f"
    )
    assert adc1.object_key(secret, adc1.DATA, dataset, 1, b"\x33" * 16).hex() == (
        "54b0e63d7dd536dc5c4f90f5dfec59148914a3eaa1c69633b13503f6d2bcec46"
    )
