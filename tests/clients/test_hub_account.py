"""`alephlab hub` for its account: it refuses what carries code before it seals anything, tells how many numbers a model has, and signs
in again when its token at the gateway has ended."""

import hashlib
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from hub_steps_data import CARD, safetensors
from sealed import AccountHub, Network


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("hub-account"), ("alice", "bob")).start()
    yield network
    network.stop()


def api(network: Network, account: str) -> tuple[HfApi, str]:
    hub = network.hub(account)
    return HfApi(endpoint=hub.url, token=hub.token), hub.name


def written(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir()
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    return folder


def by_hash(hub: AccountHub, repo: str, path: str, sha256: str, size: int) -> int:
    """The status of a commit that names content which it does not send."""
    lines = [
        {"key": "header", "value": {"summary": f"add {path}", "description": ""}},
        {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": sha256, "size": size}},
    ]
    request = urllib.request.Request(
        f"{hub.url}/api/models/{repo}/commit/main", data="\n".join(map(json.dumps, lines)).encode(), method="POST",
        headers={"Authorization": f"Bearer {hub.token}", "Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def batch(hub: AccountHub, repo: str, asked: dict) -> dict:
    """What git-lfs is told of objects that it would upload."""
    request = urllib.request.Request(
        f"{hub.url}/{repo}.git/info/lfs/objects/batch", data=json.dumps(asked).encode(), method="POST",
        headers={"Authorization": f"Bearer {hub.token}", "Content-Type": "application/vnd.git-lfs+json"},
    )  # fmt: skip
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return json.load(answer)


def ended(network: Network, token: str) -> None:
    """The gateway takes a token no more, as after its term."""
    [database] = [path for path in (network.folder / "gateway").rglob("*") if path.suffix in (".db", ".sqlite", ".sqlite3")]
    with sqlite3.connect(database, timeout=30) as store:
        hashed = hashlib.sha256(token.encode()).digest()
        changed = store.execute("UPDATE tokens SET expires = 1 WHERE sha256 = ?", (hashed,)).rowcount
    assert changed == 1


def test_what_carries_code_is_refused_at_commit_with_the_sentence_of_publish(network: Network, tmp_path: Path) -> None:
    hub, alice = api(network, "alice")
    repo = f"{alice}/careful"
    hub.create_repo(repo)
    hub.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=repo)
    before = hub.model_info(repo).sha
    evil = tmp_path / "model.safetensors"
    evil.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises((BadRequestError, HfHubHTTPError)) as refused:
        hub.upload_file(path_or_fileobj=evil, path_in_repo="model.safetensors", repo_id=repo)
    assert "`model.safetensors` is a Python pickle" in str(refused.value), refused.value
    said = network.refused("alice", "publish", evil, "--name", "careful")
    assert "`model.safetensors` is a Python pickle" in said
    with pytest.raises((BadRequestError, HfHubHTTPError)):
        hub.upload_file(path_or_fileobj=b"import os\n", path_in_repo="modeling.py", repo_id=repo)
    assert hub.model_info(repo).sha == before and hub.list_repo_files(repo) == ["README.md"]


def test_numbers_of_weights_are_told(network: Network, tmp_path: Path) -> None:
    hub, alice = api(network, "alice")
    repo = f"{alice}/counted"
    hub.create_repo(repo, private=False)
    (tmp_path / "model.safetensors").write_bytes(safetensors(3, 1 << 10))
    hub.upload_folder(folder_path=tmp_path, repo_id=repo)
    told = hub.model_info(repo).safetensors
    assert (told.total, told.parameters) == (768, {"F32": 768})
    # Kept by a commit that does not bring them.
    hub.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=repo)
    assert hub.model_info(repo).safetensors.total == 768
    # The gateway counts those of a public model itself, and tells the same; and finds it by them.
    with urllib.request.urlopen(f"{network.gateway}/api/models/{repo}", timeout=30) as answer:
        assert json.load(answer)["safetensors"]["total"] == 768
    with urllib.request.urlopen(f"{network.gateway}/models?parameters=below-100m", timeout=30) as answer:
        assert "counted" in answer.read().decode()
    with urllib.request.urlopen(f"{network.gateway}/models?parameters=over-10b", timeout=30) as answer:
        assert "counted</a>" not in answer.read().decode()


def test_a_commit_that_brings_a_card_says_once_that_it_is_public(network: Network) -> None:
    hub, alice = api(network, "alice")
    run = (
        "import sys; from huggingface_hub import HfApi; api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])\n"
        "for n, text in enumerate(sys.argv[4:]):\n"
        "    api.upload_file(path_or_fileobj=text.encode(), path_in_repo='README.md', repo_id=sys.argv[3])\n"
        "api.upload_file(path_or_fileobj=b'{}', path_in_repo='config.json', repo_id=sys.argv[3])\n"
    )
    for name, private, said in (("told", None, 1), ("untold", True, 0), ("all-public", False, 0)):
        repo = f"{alice}/card-{name}"
        hub.create_repo(repo, private=private)
        at = network.hub("alice")
        command = [sys.executable, "-c", run, at.url, at.token, repo, CARD, f"{CARD}\nMore.\n"]
        done = subprocess.run(command, env={**os.environ, "NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("the text of its README.md is public now, for good") == said, done.stderr


def test_what_carries_code_is_refused_under_a_new_name_and_from_another_repo(network: Network, tmp_path: Path) -> None:
    hub, alice = api(network, "alice")
    code = f"import os  # {os.urandom(8).hex()}\n".encode() * 400
    network.model("alice", "publish", written(tmp_path / "let", {"notes.txt": code}), "--name", "let-in")
    source, other = f"{alice}/let-in", f"{alice}/let-out"
    hub.create_repo(other)
    hub.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=other)
    sha256 = hashlib.sha256(code).hexdigest()
    for repo in (source, other):
        before = hub.model_info(repo).sha
        for path, status in (("modeling.py", 400), ("other.txt", 200)):
            assert by_hash(network.hub("alice"), repo, path, sha256, len(code)) == status, (repo, path)
        assert hub.list_repo_files(repo).count("other.txt") == 1 and hub.model_info(repo).sha != before


def test_which_public_models_have_a_file_is_told_and_their_content_is_sent(network: Network, tmp_path: Path) -> None:
    made = {"shown": "--public", "closed": "--sealed", "apart": "--public"}
    content = {name: safetensors(3, 1 << 20) for name in made}
    for name, option in made.items():
        folder = written(tmp_path / name, {f"{name}.safetensors": content[name], "README.md": CARD.encode()})
        published = network.model("alice", "publish", folder, "--name", f"once-{name}", option)
        found = network.tried("model", "which", folder / f"{name}.safetensors", *network.as_account("bob"))
        assert (found.returncode, f"{published['model']}@{published['revision']}" in found.stdout) == ((1, False) if name == "closed" else (0, True))
    hub, bob = api(network, "bob")
    at = network.hub("bob")
    # What another says that it has may be anything: a hub is sent the bytes.
    for repo, private, name in (("takes", None, "shown"), ("takes", None, "closed"), ("hides", True, "apart")):
        repo, of = f"{bob}/{repo}", content[name]
        hub.create_repo(repo, private=private, exist_ok=True)
        named = {"oid": hashlib.sha256(of).hexdigest(), "size": len(of)}
        for offered in (["basic", "multipart"], ["basic", "multipart", "xet"]):
            answer = batch(at, repo, {"operation": "upload", "transfers": offered, "hash_algo": "sha256", "objects": [named]})
            is_wanted = "actions" in answer["objects"][0] or answer["transfer"] == "xet"
            assert is_wanted, (repo, name, answer)
        path = f"{name}.safetensors"
        assert by_hash(at, repo, path, named["oid"], named["size"]) != 200, (repo, name)
        with (tmp_path / name / path).open("rb") as file:
            hub.upload_file(path_or_fileobj=file, path_in_repo=f"again/{path}", repo_id=repo)
        got = hub.hf_hub_download(repo, f"again/{path}", cache_dir=tmp_path / repo.split("/")[1])
        assert Path(got).read_bytes() == of


def test_it_signs_in_again_when_its_token_ended(network: Network) -> None:
    hub, bob = api(network, "bob")
    sessions = network.folder / "data" / "accounts" / "bob" / "sessions.json"
    [token] = json.loads(sessions.read_text()).values()
    ended(network, token)
    # What bob publishes now is told to the gateway all the same.
    hub.create_repo(f"{bob}/after", private=False)
    hub.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=f"{bob}/after")
    with urllib.request.urlopen(f"{network.gateway}/api/models/{bob}/after", timeout=30) as answer:
        assert json.load(answer)["id"] == f"{bob}/after"
    [again] = json.loads(sessions.read_text()).values()
    assert again != token
