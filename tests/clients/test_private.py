"""Private models: seen by their owner and whom they let in, by nobody else, at hubs, at gateways and on the network."""

import hashlib
import json
import sqlite3
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from hub_steps_data import safetensors
from sealed import Network
from support import wait_until
from test_model import ask, files

CARD = "---\nlicense: mit\npipeline_tag: image-classification\ntags:\n- quokka\n---\n\n# Quokka spotter\n\nFinds quokkas.\n"
# What nobody is to find anywhere. Names of files that the tests of other models have, too, are not among them.
WORDS = ["quokka", "Quokka", "hush", "hidden-weights.safetensors", "image-classification", "unannounced"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    running = Network(tmp_path_factory.mktemp("network"), ("alice", "bob", "carol")).start()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "hush"
    root.mkdir()
    (root / "README.md").write_text(CARD)
    (root / "hidden-weights.safetensors").write_bytes(safetensors(4, 3 << 20))
    return root


def stored(network: Network) -> bytes:
    """Everything that the node and the gateway have written, as bytes; and what SQLite has in pages that it may have packed."""
    found = []
    for path in [*(network.folder / "node").rglob("*"), *(network.folder / "gateway").rglob("*")]:
        if path.is_file():
            found.append(path.read_bytes())
            if path.suffix in (".db", ".sqlite"):
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                    found.append("\n".join(database.iterdump()).encode())
    return b"\n".join(found)


def nothing_of(network: Network, folder: Path) -> None:
    everything = stored(network)
    hashes = [hashlib.sha256(content).hexdigest() for content in files(folder).values()]
    for word in [*WORDS, *hashes]:
        assert word.encode() not in everything, word
    for path, content in files(folder).items():
        for end in (",", "}"):
            assert f'"size":{len(content)}{end}'.encode() not in everything, path


def gateway(network: Network, path: str, token: str | None = None) -> tuple[int, dict, bytes]:
    request = urllib.request.Request(network.gateway + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_a_private_model_is_published_granted_and_read_while_nobody_else_knows_of_it(
    network: Network, folder: Path, tmp_path: Path
) -> None:
    owner = network.addresses["alice"]
    first = network.model("alice", "publish", folder, "--private", "--tag", "unannounced")
    assert (first["model"], first["visibility"], first["told"]) == (f"{owner}/hush", "private", True)
    assert first["files"] == 2
    shown = network.model("alice", "show", "hush")
    assert shown["card"]["tags"] == ["quokka"] and shown["tags"] == {"unannounced": first["revision"]}
    network.model("alice", "pull", "hush@unannounced", "--to", tmp_path / "own")
    assert files(tmp_path / "own") == files(folder)

    # The same account on another machine reads it from the network alone: nothing of it is in this machine's books.
    books = network.folder / "data" / "accounts" / "alice" / "models.json"
    kept = books.read_bytes()
    books.unlink()
    assert network.model("alice", "show", "hush")["revision"] == first["revision"]
    books.write_bytes(kept)

    never = f"{owner}/never"
    for account in ("bob", "carol"):
        said = [network.refused(account, "show", name) for name in (f"{owner}/hush", never)]
        assert said[0].replace("hush", "never") == said[1]
        said = [network.refused(account, "pull", name, "--to", tmp_path / "no") for name in (f"{owner}/hush", never)]
        assert said[0].replace("hush", "never") == said[1]
    assert network.run("model", "ls", "--all", "--json", *network.as_account("carol")).stdout == ""

    network.model("alice", "grant", "hush", network.addresses["bob"])
    shown = network.model("bob", "show", f"{owner}/hush")
    assert shown["visibility"] == "private" and shown["tags"] == {"unannounced": first["revision"]}
    got = network.model("bob", "pull", f"{owner}/hush", "--to", tmp_path / "granted")
    assert got["by"] == "granted" and files(tmp_path / "granted") == files(folder)
    (folder / "more.txt").write_text("more quokkas")
    second = network.model("alice", "publish", folder)
    assert second["visibility"] == "private" and second["uploaded"] < 1 << 20, "private it stays, and only what is new is stored"
    network.model("bob", "pull", f"{owner}/hush", "--to", tmp_path / "later")
    assert files(tmp_path / "later") == files(folder)
    listed = network.run("model", "ls", "--all", "--json", *network.as_account("bob")).stdout
    assert [json.loads(line)["by"] for line in listed.splitlines()] == ["granted"]
    assert "no model called" in network.refused("carol", "pull", f"{owner}/hush", "--to", tmp_path / "no")
    said = network.tried("model", "verify", "hush", "--attest", *network.as_account("alice"))
    assert said.returncode != 0 and "evidence is public" in said.stderr, said.stderr
    nothing_of(network, folder)

    # At the gateway it is a model that never was, to anybody but its owner, and to them a row.
    ids = [f"{owner}/hush", f"{owner}/{first['uuid']}", never]
    paths = ["/api/models/ID", "/api/models/ID/tree/main", f"/api/models/ID/revision/{first['revision']}", "/v1/models/ID",
             "/ID/resolve/main/README.md", "/models/ID"]  # fmt: skip
    for path in paths:
        answers = [gateway(network, path.replace("ID", one)) for one in ids]
        assert {status for status, *_ in answers} <= {401, 404}, answers
        bodies = [body.replace(one.encode(), b"ID") for one, (_, _, body) in zip(ids, answers, strict=True)]
        assert bodies[0] == bodies[1] == bodies[2], path
    assert json.loads(gateway(network, "/api/models?search=hush")[2]) == []
    assert json.loads(gateway(network, f"/api/models?author={owner}")[2]) == []

    # Another gateway that reads everything from the network knows no more.
    other = network.program("registry_gateway", network.node, network.folder / "other", network.addresses["carol"])
    mine, network.gateway = network.gateway, other
    try:
        for path in paths:
            answers = [gateway(network, path.replace("ID", one)) for one in ids]
            assert {status for status, *_ in answers} <= {401, 404}, answers
        assert json.loads(gateway(network, "/api/models")[2]) == []
    finally:
        network.gateway = mine


def test_a_share_of_a_private_model_opens_it_at_the_gateway_and_for_our_clients(
    network: Network, folder: Path, tmp_path: Path
) -> None:
    first = network.model("alice", "publish", folder, "--name", "hush-shared", "--private")
    share = network.model("alice", "share", "hush-shared", "--expires", "1h")
    assert share["model"] == f"{network.addresses['alice']}/{first['uuid']}", "its name is not told to the gateway"
    cache = {"cache_dir": tmp_path / "cache", "endpoint": network.gateway, "token": share["token"]}
    folder_there = snapshot_download(f"m/{share['uuid']}", **cache)
    got = {path.name: path.read_bytes() for path in Path(folder_there).iterdir()}
    assert got == files(folder)
    info = HfApi(endpoint=network.gateway, token=share["token"]).model_info(f"m/{share['uuid']}")
    assert info.pipeline_tag == "image-classification" and info.private
    for token in (None, "hf_" + "0" * 34):
        assert gateway(network, f"/m/{share['uuid']}/resolve/main/README.md", token)[0] == 401
    network.run("share", "accept", share["uuid"], "--account", "bob", "--gateway", network.gateway, stdin=share["token"] + "\n")
    network.model("bob", "pull", share["uuid"], "--to", tmp_path / "shared")
    assert files(tmp_path / "shared") == files(folder)
    nothing_of(network, folder)
    ended = network.model("alice", "revoke", share["uuid"], "--reseal")
    assert ended["withdrawn"] == first["revision"]
    assert gateway(network, f"/m/{share['uuid']}/resolve/main/README.md", share["token"])[0] == 401
    assert network.model("alice", "show", "hush-shared")["revision"] == ended["revision"]
    nothing_of(network, folder)


def test_stock_clients_make_private_models_and_see_them_where_they_may(network: Network, folder: Path, tmp_path: Path) -> None:
    hubs = {name: network.hub(name) for name in ("alice", "bob", "carol")}
    api = {name: HfApi(endpoint=hub.url, token=hub.token) for name, hub in hubs.items()}
    repo = f"{network.addresses['alice']}/hush-{uuid.uuid4().hex[:8]}"
    api["alice"].create_repo(repo, private=True)
    assert api["alice"].model_info(repo).private
    commit = api["alice"].upload_folder(repo_id=repo, folder_path=folder)
    info = api["alice"].model_info(repo)
    assert info.private and info.gated is False and info.sha == commit.oid
    assert [model.id for model in api["alice"].list_models(search=repo.split("/")[1])] == [repo]
    api["alice"].create_tag(repo, tag="unannounced")
    never = f"{network.addresses['alice']}/hush-{uuid.uuid4().hex[:8]}"
    sha256 = hashlib.sha256((folder / "hidden-weights.safetensors").read_bytes()).hexdigest()
    for name in ("bob", "carol"):
        with pytest.raises(RepositoryNotFoundError):
            api[name].model_info(repo)
        for path in ["/api/models/ID", "/api/models/ID/tree/main", "/ID/resolve/main/README.md", "/api/models/ID/refs"]:
            for token in (hubs[name].token, None):
                answers = [ask(hubs[name], "GET", path.replace("ID", one), token) for one in (repo, never)]
                told = [(status, body) for status, _, body in answers]
                assert told[0] == told[1], path
        assert repo not in [model.id for model in api[name].list_models()]
        # Naming a hash that this account may not read hands over nothing.
        mine = f"{network.addresses[name]}/{name}s"
        api[name].create_repo(mine)
        line = json.dumps({"key": "header", "value": {"summary": "steal", "description": ""}}) + "\n"
        line += json.dumps({"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": sha256, "size": 1}})
        request = urllib.request.Request(
            f"{hubs[name].url}/api/models/{mine}/commit/main", data=line.encode(), method="POST",
            headers={"Authorization": f"Bearer {hubs[name].token}", "Content-Type": "application/x-ndjson"},
        )  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
        assert refused.value.code in (400, 404, 409, 422)
    network.model("alice", "grant", repo.split("/")[1], network.addresses["bob"])
    wait_until(lambda: repo in [model.id for model in api["bob"].list_models()], 20, "bob does not see it")
    path = hf_hub_download(repo, "hidden-weights.safetensors", endpoint=hubs["bob"].url, token=hubs["bob"].token,
                           cache_dir=tmp_path / "cache")  # fmt: skip
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256
    assert "unannounced" in [tag.name for tag in api["bob"].list_repo_refs(repo).tags]
    with pytest.raises(RepositoryNotFoundError):
        api["carol"].model_info(repo)
    nothing_of(network, folder)


def test_what_changes_says_what_it_means_and_cannot_be_taken_back(network: Network, folder: Path) -> None:
    hubs = {name: network.hub(name) for name in ("alice", "carol")}
    api = {name: HfApi(endpoint=hub.url, token=hub.token) for name, hub in hubs.items()}
    repo = f"{network.addresses['alice']}/turning"
    api["alice"].create_repo(repo, private=True)
    (folder / "hidden-weights.safetensors").rename(folder / "turning-weights.safetensors")
    (folder / "README.md").write_text("# Turning\n")
    api["alice"].upload_folder(repo_id=repo, folder_path=folder)
    settings = f"{hubs['alice'].url}/api/models/{repo}/settings"

    def change(visibility: str) -> str:
        request = urllib.request.Request(
            settings, data=json.dumps({"visibility": visibility}).encode(), method="PUT",
            headers={"Authorization": f"Bearer {hubs['alice'].token}", "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.headers["X-HF-Warning"] or ""

    told = change("public")
    assert "paths, sizes and hashes of its files are public now" in told and "neither can be taken back" in told
    wait_until(lambda: repo in [model.id for model in api["carol"].list_models()], 20, "carol does not see it")
    assert b"turning-weights.safetensors" in stored(network)
    told = change("private")
    assert "stays on the network, and cannot be taken back" in told
    assert change("private") == "", "nothing changes, and nothing is said"

    def gone() -> bool:
        try:
            api["carol"].model_info(repo)
        except RepositoryNotFoundError:
            return True
        return False

    wait_until(gone, 20, "carol still sees it")
    assert json.loads(gateway(network, f"/api/models?author={network.addresses['alice']}")[2]) == []
    assert api["alice"].model_info(repo).private
    assert b"turning-weights.safetensors" in stored(network), "as was said"
    said = network.run("model", "publish", folder, "--name", "turning", "--sealed", *network.as_account("alice")).stderr
    assert "turning was private and is sealed" in said and "cannot be taken back" in said
