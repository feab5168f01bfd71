"""`model.sig`: what is signed here is verified by the OpenSSF tool, and what that signs is taken here; changed files are refused by both."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hub_steps_data import CARD, safetensors
from sealed import Network

TOOL = Path(sys.executable).with_name("model_signing")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("oms"), ("alice", "bob")).start()
    yield network
    network.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "signed"
    (root / "sub").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "model.safetensors").write_bytes(safetensors(2, 1 << 10))
    (root / "sub" / "vocab.txt").write_text("a\nb\n")
    # Which git writes, and tools that sign leave out.
    (root / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return root


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def outcomes(report: dict) -> dict[str, str]:
    return {check["id"]: check["outcome"] for check in report["checks"]}


def test_the_openssf_tool_verifies_what_is_signed_here(network: Network, folder: Path, tmp_path: Path) -> None:
    network.model("alice", "publish", folder, "--name", "signed")
    pulled, key = tmp_path / "pulled", tmp_path / "alice.pem"
    network.model("alice", "pull", "signed", "--to", pulled)
    signature = pulled / "model.sig"
    made = network.model("alice", "sign", "signed", "--out", signature, "--public-key", key)
    assert made["delegated"] and made["files"] >= 3 and made["key"] == key.read_text()
    again = network.model("alice", "sign", "signed", "--out", signature)
    assert again["delegated"] is None and again["key"] == made["key"]
    verify = ["verify", "key", pulled, "--signature", signature, "--public_key", key]
    done = tool(*verify)
    assert done.returncode == 0, done.stderr
    # Whoever knows the owner's address needs no key.
    owner = network.addresses["alice"]
    by_owner = ["verify", "--in", pulled, "--signature", signature, "--by", owner]
    assert outcomes(network.model("bob", *by_owner))["V2"] == "passed"
    refused = network.refused("bob", *by_owner[:-1], network.addresses["bob"])
    assert "none of the keys" in refused
    (pulled / "sub" / "vocab.txt").write_text("a\nc\n")
    assert tool(*verify).returncode != 0
    done = network.tried("model", *by_owner, "--json", *network.as_account("bob"))
    found = outcomes(json.loads(done.stdout))
    assert done.returncode == 1 and (found["V1"], found["V2"]) == ("failed", "not_run")
    (pulled / "sub" / "vocab.txt").write_text("a\nb\n")
    network.model("alice", "end-key")
    assert "none of the keys" in network.refused("bob", *by_owner)
    assert "has ended" in network.refused("alice", "sign", "signed", "--out", signature)


def test_what_the_openssf_tool_signs_is_taken_here(network: Network, folder: Path, tmp_path: Path) -> None:
    private, public, signature = tmp_path / "key.pem", tmp_path / "key.pub", folder / "model.sig"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    # As of every file of a key, only its owner may read it.
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    done = tool("sign", "key", folder, "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stderr
    by_key = ["verify", "--in", folder, "--signature", signature, "--public-key", public]
    found = outcomes(network.model("bob", *by_key))
    assert (found["V1"], found["V2"]) == ("passed", "not_run")
    # The same key, once its owner's wallet said that it is the owner's.
    network.model("bob", "publish", folder / "README.md", folder / "model.safetensors", "--name", "theirs")
    network.model("bob", "sign", "theirs", "--key", private, "--out", tmp_path / "other.sig")
    by_owner = ["verify", "--in", folder, "--signature", signature, "--by", network.addresses["bob"]]
    assert outcomes(network.model("alice", *by_owner))["V2"] == "passed"
    (folder / "more.txt").write_text("not signed")
    done = network.tried("model", *by_key, "--json", *network.as_account("bob"))
    assert done.returncode == 1 and outcomes(json.loads(done.stdout))["V1"] == "failed"
    statement = json.loads(signature.read_text())
    statement["dsseEnvelope"]["payload"] = statement["dsseEnvelope"]["payload"][::-1]
    signature.write_text(json.dumps(statement))
    assert "signature is refused" in network.refused("bob", *by_key)
