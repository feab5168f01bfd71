"""The unmodified `aleph-cli` from crates.io against our local Aleph node, as a person types it.

It takes minutes to build, so `cargo xtask test --long` installs and runs it, and the short run does not.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import PROGRAMS

ALEPH = Path(os.environ.get("ALEPHLAB_ALEPH_CLI", PROGRAMS.parent / "test-tools" / "bin" / "aleph"))
NODE = PROGRAMS / "examples" / "localnet"
OWNER = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"
FRIEND = "0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c"
KEYS = {OWNER: "01" * 32, FRIEND: "02" * 32}


class Aleph:
    """The command with a home of its own and one node."""

    def __init__(self, node: str, home: Path) -> None:
        self.node, self.home = node, home

    def run(self, *words: str, key_of: str | None = None) -> subprocess.CompletedProcess:
        """Runs it; with `key_of` it signs as that address."""
        environment = {**os.environ, "HOME": str(self.home)}
        command = [ALEPH, "--ccn", self.node, "--json", *words]
        if key_of:
            environment["ALEPH_PRIVATE_KEY"] = KEYS[key_of]
            command += ["--chain", "eth"]
        return subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, timeout=60)

    def __call__(self, *words: str, key_of: str | None = None):
        """What it prints as JSON, when it must go well."""
        done = self.run(*words, key_of=key_of)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture
def aleph(tmp_path: Path):
    assert ALEPH.exists(), f"no {ALEPH}: cargo install aleph-cli@0.22.0 --locked --root {ALEPH.parent.parent}"
    home = tmp_path / "home"
    home.mkdir()
    command = [NODE, "--port", "0", "--data", tmp_path / "node"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            yield Aleph(process.stdout.readline().strip().rstrip("/"), home)
        finally:
            process.terminate()


def test_post_is_created_amended_listed_and_forgotten(aleph: Aleph) -> None:
    post = aleph("post", "create", "--type", "note", "--content", '{"v": 1}', "--channel", "T", key_of=OWNER)
    assert (post["message_status"], post["sender"]) == ("processed", OWNER)
    aleph("post", "amend", "--ref", post["item_hash"], "--content", '{"v": 2}', key_of=OWNER)
    for version in ("0", "1"):
        (listed,) = aleph("post", "list", "--api-version", version, "--addresses", OWNER)
        assert (listed["content"], listed["original_item_hash"]) == ({"v": 2}, post["item_hash"])
    assert aleph("message", "get", post["item_hash"])["message"]["content"]["content"] == {"v": 1}
    aleph("message", "forget", post["item_hash"], "--yes", key_of=OWNER)
    assert aleph("post", "list", "--addresses", OWNER) == []
    assert aleph("message", "get", post["item_hash"])["status"] == "forgotten"


def test_aggregate_is_merged_read_and_forgotten_whole(aleph: Aleph) -> None:
    first = aleph("aggregate", "create", "--key", "profile", "--content", '{"a": 1}', key_of=OWNER)
    aleph("aggregate", "edit", "--key", "profile", "--subkey", "b", "--content", "2", "--yes", key_of=OWNER)
    assert aleph("aggregate", "get", "profile", "--address", OWNER) == {"profile": {"a": 1, "b": 2}}
    aleph("aggregate", "forget", first["item_hash"], "--yes", key_of=OWNER)
    assert "No aggregate" in aleph.run("aggregate", "get", "profile", "--address", OWNER).stderr


def test_delegate_does_what_was_allowed_and_nothing_else(aleph: Aleph) -> None:
    aleph("authorization", "add", FRIEND, "--message-types", "post", "--post-types", "note", key_of=OWNER)
    assert OWNER in json.dumps(aleph("authorization", "received", "--address", FRIEND))
    words = ("post", "create", "--content", "{}", "--on-behalf-of", OWNER, "--type")
    assert aleph(*words, "note", key_of=FRIEND)["message_status"] == "processed"
    refused = aleph.run(*words, "other", key_of=FRIEND)
    assert refused.returncode != 0
    assert json.loads(refused.stdout)["rejection_code"] == 2


def test_file_is_uploaded_listed_downloaded_and_deleted(aleph: Aleph) -> None:
    content = os.urandom(3 * 1024 * 1024)
    (aleph.home / "data.bin").write_bytes(content)
    stored = aleph("file", "upload", "data.bin", "--ref", "data", key_of=OWNER)
    assert stored["message_status"] == "processed"
    listed = aleph("file", "list", "--address", OWNER)
    assert stored["item_hash"] in json.dumps(listed)
    ways = (("--ref", "data", "--owner", OWNER), ("--message-hash", stored["item_hash"]))
    for number, way in enumerate(ways):
        aleph("file", "download", *way, "--output", f"{number}.bin")
        assert (aleph.home / f"{number}.bin").read_bytes() == content
    aleph("message", "forget", stored["item_hash"], "--yes", key_of=OWNER)
    assert aleph.run("file", "download", *ways[0], "--output", "gone.bin").returncode != 0


def test_credits_are_moved_and_accounted_for(aleph: Aleph) -> None:
    before = aleph("account", "balance", FRIEND)["credits"]
    aleph("credit", "transfer", "--to", FRIEND, "--amount", "1000", "--yes", key_of=OWNER)
    assert aleph("account", "balance", FRIEND)["credits"] == before + 1000
    assert '"amount": 1000' in json.dumps(aleph("credit", "history", "--address", FRIEND))
    summary = aleph("credit", "summary", "--address", OWNER)
    assert summary["total_outgoing"] == -1000
    too_much = aleph.run("credit", "transfer", "--to", FRIEND, "--amount", "99999999999", "--yes", key_of=OWNER)
    assert too_much.returncode != 0
