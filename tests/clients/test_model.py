"""`alephlab model` and `alephlab hub` between three accounts: publish, tag, pull, share, grant, revoke, withdraw, verify."""

import hashlib
import http.client
import json
import os
import pickle
import subprocess
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_steps_data import CARD, safetensors
from sealed import AccountHub, Network
from support import ALEPHLAB, wait_until


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    running = Network(tmp_path_factory.mktemp("network"), ("alice", "bob", "carol")).start()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    (root / "sub").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text('{"model_type": "gpt2"}')
    (root / "model.safetensors").write_bytes(safetensors(4, 1 << 20))
    (root / "sub" / "vocab.txt").write_text("a\nb\n")
    (root / ".cache").mkdir()
    (root / ".cache" / "left.out").write_text("x")
    return root


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if ".cache" not in path.parts}


def ask(hub: AccountHub, method: str, path: str, token: str | None, **headers: str) -> tuple[int, dict, bytes]:
    at = urllib.parse.urlsplit(hub.url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, headers={**bearer, **headers})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_a_revision_is_published_pulled_and_gone_on_with(network: Network, folder: Path, tmp_path: Path) -> None:
    first = network.model("alice", "publish", folder, "--tag", "v1")
    owner = network.addresses["alice"]
    assert (first["model"], first["visibility"], first["told"]) == (f"{owner}/tiny", "sealed", True)
    assert first["files"] == 4 and len(first["revision"]) == 40
    again = network.model("alice", "publish", folder)
    assert again["unchanged"] and again["revision"] == first["revision"] and again["uploaded"] == 0
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}')
    second = network.model("alice", "publish", folder / "config.json", "--name", "tiny", "--add")
    assert second["revision"] != first["revision"] and second["files"] == 4
    # The weights stayed as they were, and were not stored again.
    assert second["uploaded"] < 1 << 20 < first["uploaded"]
    network.model("alice", "pull", "tiny", "--to", tmp_path / "new")
    assert files(tmp_path / "new") == files(folder)
    network.model("alice", "pull", f"{owner}/tiny@v1", "--to", tmp_path / "old")
    assert files(tmp_path / "old")["config.json"] == b'{"model_type": "gpt2"}'
    shown = network.model("alice", "show", "tiny")
    assert shown["card"]["licence"] == "mit" and shown["tags"] == {"v1": first["revision"]}
    assert [one["revision"] for one in shown["revisions"]] == [second["revision"], first["revision"]]
    assert shown["parent"] == first["revision"]
    listed = network.run("model", "ls", "--json", "--search", "TINY", *network.as_account("alice")).stdout
    assert [json.loads(line)["revision"] for line in listed.splitlines()] == [second["revision"]]
    assert network.run("model", "ls", "--search", "none", *network.as_account("alice")).stdout == ""
    network.model("alice", "tag", "tiny", "v1")
    assert network.model("alice", "show", "tiny")["tags"] == {"v1": second["revision"]}
    network.model("alice", "untag", "tiny", "v1")
    assert network.model("alice", "show", "tiny")["tags"] == {}


def test_a_pull_keeps_what_is_there_and_overwrites_nothing(network: Network, folder: Path, tmp_path: Path) -> None:
    network.model("alice", "publish", folder, "--name", "kept")
    to = tmp_path / "to"
    got = network.model("alice", "pull", "kept", "--to", to)
    assert got["fetched"] == 4
    (to / "model.safetensors").unlink()
    whole = (folder / "model.safetensors").read_bytes()
    # As a pull that was cut leaves it.
    (to / ".alephlab-parts").mkdir()
    (to / ".alephlab-parts" / hashlib.sha256(whole).hexdigest()).write_bytes(whole[: 3 << 20])
    got = network.model("alice", "pull", "kept", "--to", to)
    assert (got["fetched"], got["bytes"]) == (1, len(whole) - (3 << 20))
    assert files(to) == files(folder) and not (to / ".alephlab-parts").exists()
    (to / "config.json").write_text("mine")
    said = network.refused("alice", "pull", "kept", "--to", to)
    assert "config.json with other content, and nothing is overwritten" in said and "hint: " in said
    assert (to / "config.json").read_text() == "mine"


def test_a_publish_that_was_killed_goes_on(network: Network, folder: Path) -> None:
    (folder / "more.safetensors").write_bytes(safetensors(9, 16 << 20))
    command = [ALEPHLAB, "model", "publish", folder, "--name", "cut", *network.as_account("alice")]
    command += ["--data", network.folder / "data"]
    killed = subprocess.Popen(command, env=network.environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = network.folder / "data" / "accounts" / "alice" / "models" / "cut.jsonl"
    wait_until(lambda: journal.read_text().count("\n") > 2, 60, "nothing was stored", OSError)
    killed.kill()
    killed.wait()
    assert "no model called" in network.refused("alice", "show", "cut")
    done = network.model("alice", "publish", folder, "--name", "cut")
    assert not done["unchanged"] and network.model("alice", "show", "cut")["revision"] == done["revision"]


def test_a_public_model_opens_for_anyone_and_a_sealed_one_for_nobody_else(network: Network, folder: Path, tmp_path) -> None:
    owner = network.addresses["alice"]
    network.model("alice", "publish", folder, "--name", "open", "--public")
    got = network.model("bob", "pull", f"{owner}/open", "--to", tmp_path / "open")
    assert got["by"] == "public" and files(tmp_path / "open") == files(folder)
    network.model("alice", "publish", folder, "--name", "closed")
    assert "is sealed, and not granted to" in network.refused("bob", "pull", f"{owner}/closed", "--to", tmp_path / "no")
    assert not (tmp_path / "no").exists()
    network.model("alice", "grant", "closed", network.addresses["bob"])
    got = network.model("bob", "pull", f"{owner}/closed", "--to", tmp_path / "granted")
    assert got["by"] == "granted" and files(tmp_path / "granted") == files(folder)
    (folder / "config.json").write_text("{}")
    network.model("alice", "publish", folder, "--name", "closed")
    got = network.model("bob", "pull", f"{owner}/closed", "--to", tmp_path / "later")
    assert (tmp_path / "later" / "config.json").read_text() == "{}", "who holds a grant gets the next revision"
    assert "is sealed" in network.refused("carol", "pull", f"{owner}/closed", "--to", tmp_path / "no")


def test_a_share_opens_one_revision_until_it_is_ended(network: Network, folder: Path, tmp_path: Path) -> None:
    first = network.model("alice", "publish", folder, "--name", "shared", "--tag", "v1")
    limits = ["--expires", "1h", "--downloads", "50", "--bytes", "1G", "--per-minute", "600"]
    share = network.model("alice", "share", "shared@v1", *limits)
    assert share["revision"] == first["revision"]
    assert share["limits"] == {"downloads": 50, "bytes": 10**9, "per_minute": 600}
    keeps = ["--account", "bob", "--gateway", network.gateway]
    network.run("share", "accept", share["uuid"], *keeps, stdin=share["token"] + "\n")
    (folder / "config.json").write_text("{}")
    network.model("alice", "publish", folder, "--name", "shared")
    got = network.model("bob", "pull", share["uuid"], "--to", tmp_path / "shared")
    assert (got["by"], got["revision"]) == ("share", first["revision"])
    assert files(tmp_path / "shared")["config.json"] != b"{}"
    hub = network.hub("bob")
    path = f"/m/{share['uuid']}/resolve/main/config.json"
    assert ask(hub, "GET", path, hub.token)[0] == 200
    assert ask(hub, "GET", path, None)[0] == 401
    assert "keeps no token" in network.refused("carol", "pull", share["uuid"])
    ended = network.model("alice", "revoke", share["uuid"], "--reseal")
    assert ended["withdrawn"] == first["revision"]
    said = network.refused("bob", "pull", share["uuid"], "--to", tmp_path / "again")
    assert "no such share, or not for this token" in said
    shown = network.model("alice", "show", "shared")
    assert shown["revision"] == ended["revision"] and shown["tags"] == {}
    # Nothing of it was taken over: what kept keys open is not in it.
    assert ended["uploaded"] > 4 << 20
    network.model("alice", "pull", "shared", "--to", tmp_path / "own")
    assert files(tmp_path / "own") == files(folder)


def test_what_is_withdrawn_is_not_offered_and_may_begin_anew(network: Network, folder: Path) -> None:
    first = network.model("alice", "publish", folder, "--name", "gone")
    assert "add --yes" in network.refused("alice", "withdraw", "gone")
    network.model("alice", "withdraw", "gone", "--yes")
    assert "was withdrawn" in network.refused("alice", "show", "gone")
    assert "was withdrawn" in network.refused("bob", "pull", f"{network.addresses['alice']}/gone")
    again = network.model("alice", "publish", folder, "--name", "gone")
    shown = network.model("alice", "show", "gone")
    assert shown["revision"] == again["revision"] != first["revision"]
    assert shown["uuid"] == first["uuid"] and shown["parent"] is None


def test_a_revision_is_checked_and_dangerous_files_are_refused(network: Network, folder: Path, tmp_path: Path) -> None:
    network.model("alice", "publish", folder, "--name", "checked")
    done = network.run("model", "verify", "checked", "--json", *network.as_account("alice"))
    report = json.loads(done.stdout)
    outcomes = {check["id"]: check["outcome"] for check in report["checks"]}
    assert [outcomes[id] for id in ("V1", "V2", "V3", "V4", "V5", "V7")] == ["passed"] * 4 + ["not_run", "passed"], outcomes
    network.model("alice", "pull", "checked", "--to", tmp_path / "here")
    done = network.run("model", "verify", "checked", "--in", tmp_path / "here", *network.as_account("alice"))
    assert "V2  publisher              passed" in done.stdout
    with (tmp_path / "here" / "config.json").open("a") as file:
        file.write(" ")
    done = network.tried("model", "verify", "checked", "--in", tmp_path / "here", *network.as_account("alice"))
    assert done.returncode == 1 and "V1  integrity              FAILED" in done.stdout and "config.json" in done.stdout
    (folder / "weights.safetensors").write_bytes(pickle.dumps({"w": os.system}))
    said = network.refused("alice", "publish", folder, "--name", "pickled")
    assert "weights.safetensors" in said and "ickle" in said and "--unchecked" in said
    assert "no model called" in network.refused("alice", "show", "pickled")


def test_bad_input_gets_one_sentence_and_what_to_do(network: Network, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    owner = network.addresses["alice"]
    for arguments, why in (
        (["show", "nothing"], "no model called"),
        (["show", f"{owner}/nothing"], "no model called"),
        (["show", "a b"], "cannot be the name of a model"),
        (["show", "someone/x"], "no account"),
        (["pull", str(uuid.uuid4())], "keeps no token"),
        (["publish", tmp_path / "none"], "none"),
        (["publish", tmp_path / "empty"], "nothing to publish"),
        (["tag", f"{network.addresses['bob']}/x", "v1"], "another account"),
    ):
        said = network.refused("alice", *arguments)
        assert why in said and "hint: " in said or "os error" in said, said


def test_the_hub_answers_its_own_machine_and_the_bearer_of_its_token(network: Network, folder: Path) -> None:
    published = network.model("alice", "publish", folder, "--name", "door")
    hub = network.hub("alice")
    path = f"/{hub.name}/door/resolve/main/config.json"
    right = hub.url.removeprefix("http://")
    assert ask(hub, "GET", path, hub.token)[2] == (folder / "config.json").read_bytes()
    for host in ("evil.example", f"evil.example:{right.rsplit(':')[-1]}", "127.0.0.1"):
        assert ask(hub, "GET", path, hub.token, Host=host)[0] == 403, host
    status, headers, _ = ask(hub, "GET", path, hub.token, Origin="https://evil.example")
    assert status == 403 and "access-control-allow-origin" not in headers
    assert ask(hub, "OPTIONS", path, None, Origin="http://" + right)[0] in (404, 405)
    for token in (None, "hf_wrong"):
        assert ask(hub, "GET", path, token)[0] == 401
    # A third account learns what is public, and gets no bytes: by name, by revision, or by hash.
    carol = network.hub("carol")
    info = json.loads(ask(carol, "GET", f"/api/models/{hub.name}/door", carol.token)[2])
    assert (info["gated"], info["sha"]) == ("manual", published["revision"])
    for revision in ("main", published["revision"]):
        status, headers, _ = ask(carol, "GET", f"/{hub.name}/door/resolve/{revision}/config.json", carol.token)
        assert (status, headers["x-error-code"]) == (403, "GatedRepo")
    assert ask(carol, "GET", f"/api/models/{hub.name}/door", None)[0] == 401
