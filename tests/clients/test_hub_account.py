"""`alephlab hub` for its account: it refuses what carries code before it seals anything, tells how many numbers a model has, and signs
in again when its token at the gateway has ended."""

import hashlib
import json
import os
import pickle
import sqlite3
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from hub_steps_data import CARD, safetensors
from sealed import Network


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


def test_it_signs_in_again_when_its_token_ended(network: Network) -> None:
    hub, bob = api(network, "bob")
    _, alice = api(network, "alice")
    found = f"{alice}/listed"
    api(network, "alice")[0].create_repo(found)
    api(network, "alice")[0].upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=found)
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
