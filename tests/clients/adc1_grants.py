"""Independent maker and opener of grants (ADC1, section 10), for keys of X25519 and of X-Wing.

Written from RFC 9180 and draft-connolly-cfrg-xwing-kem with `cryptography`'s primitives; its own HPKE has no AAD, so the key
schedule is here, and `test_adc1.py` holds it against `cryptography`'s.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

import adc1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

X25519, XWING = 0x0020, 0x647A
XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")


@dataclass
class Key:
    """A reader's key, as its file holds it: the secret of X25519, then the seed of X-Wing."""

    secrets: bytes

    @property
    def x25519(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secrets[:32])

    @property
    def xwing(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        expanded = hashlib.shake_256(self.secrets[32:]).digest(96)
        lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        return lattice, X25519PrivateKey.from_private_bytes(expanded[64:])

    def public(self, kem: int) -> bytes:
        if kem == X25519:
            return self.x25519.public_key().public_bytes_raw()
        lattice, curve = self.xwing
        return lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()

    def id(self, kem: int) -> bytes:
        return adc1.sha256(b"aleph-dataset/v1/rkey\0" + kem.to_bytes(2, "big") + self.public(kem))[:16]


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labelled).derive(prk)


def dh_secret(shared: bytes, enc: bytes, public: bytes) -> bytes:
    """ExtractAndExpand of RFC 9180, 4.1."""
    suite = b"KEM" + X25519.to_bytes(2, "big")
    return expand(suite, extract(suite, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)


def combine(lattice: bytes, curve: bytes, point: bytes, public: bytes) -> bytes:
    """The combiner of X-Wing."""
    return hashlib.sha3_256(lattice + curve + point + public[1184:] + XWING_LABEL).digest()


def decapsulate(kem: int, key: Key, enc: bytes) -> bytes:
    if kem == X25519:
        shared = key.x25519.exchange(X25519PublicKey.from_public_bytes(enc))
        return dh_secret(shared, enc, key.public(kem))
    lattice, curve = key.xwing
    point = enc[1088:]
    shared = curve.exchange(X25519PublicKey.from_public_bytes(point))
    return combine(lattice.decapsulate(enc[:1088]), shared, point, key.public(kem))


def encapsulate(kem: int, public: bytes) -> tuple[bytes, bytes]:
    """Shared secret and encapsulated key."""
    own = X25519PrivateKey.generate()
    point = own.public_key().public_bytes_raw()
    shared = own.exchange(X25519PublicKey.from_public_bytes(public[-32:]))
    if kem == X25519:
        return dh_secret(shared, point, public), point
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    return combine(secret, shared, point, public), ciphertext + point


def schedule(kem: int, shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    """KeySchedule of RFC 9180, 5.1, in base mode with HKDF-SHA256 and AES-256-GCM: the cipher and the first nonce."""
    suite = b"HPKE" + kem.to_bytes(2, "big") + bytes([0, 1, 0, 2])
    hashes_of = [extract(suite, b"", label, data) for label, data in [(b"psk_id_hash", b""), (b"info_hash", info)]]
    context = b"\0" + b"".join(hashes_of)
    secret = extract(suite, shared, b"secret", b"")
    return AESGCM(expand(suite, secret, b"key", context, 32)), expand(suite, secret, b"base_nonce", context, 12)


def grant_info(grant: dict) -> bytes:
    label = b"aleph-dataset/v1/grant\0" + bytes.fromhex(grant["dataset_id"])
    return label + grant["epoch"].to_bytes(4, "big") + bytes.fromhex(grant["key_id"])


def grant_aad(grant: dict) -> bytes:
    return adc1.encode(
        {
            1: bytes.fromhex(grant["dataset_id"]),
            2: grant["epoch"],
            3: bytes.fromhex(grant["recipient"][2:]),
            4: bytes.fromhex(grant["key_id"]),
            5: grant["kem_id"],
            6: grant["scope"],
            7: [grant["not_before"], grant.get("not_after")],
            8: bytes.fromhex(grant["grant_id"]),
            9: None,
            10: bytes.fromhex(grant["enc"]),
        }
    )


def open_grant(grant: dict, key: Key) -> bytes:
    """The epoch secret."""
    kem = grant["kem_id"]
    assert grant["key_id"] == key.id(kem).hex()
    shared = decapsulate(kem, key, bytes.fromhex(grant["enc"]))
    cipher, nonce = schedule(kem, shared, grant_info(grant))
    opened = cipher.decrypt(nonce, bytes.fromhex(grant["ct"]), grant_aad(grant))
    assert opened[0] == 0
    return opened[1:]


def seal_grant(kem: int, key: Key, dataset: bytes, epoch: int, recipient: bytes, secret: bytes) -> dict:
    shared, enc = encapsulate(kem, key.public(kem))
    grant = {
        "dataset_id": dataset.hex(),
        "epoch": epoch,
        "recipient": "0x" + recipient.hex(),
        "key_id": key.id(kem).hex(),
        "kem_id": kem,
        "scope": 0,
        "not_before": 0,
        "not_after": 4_000_000_000,
        "grant_id": os.urandom(16).hex(),
        "enc": enc.hex(),
    }
    cipher, nonce = schedule(kem, shared, grant_info(grant))
    return grant | {"ct": cipher.encrypt(nonce, b"\0" + secret, grant_aad(grant)).hex()}
