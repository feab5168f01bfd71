"""A broker as it runs beside a kernel, with a real gateway, node and `alephlab keys`, and no kernel: what it publishes and what of it is
stored, and what stock Hub clients read of its hub. What a kernel adds is in `test_kernel_models.py`."""

import http.client
import json
import os
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from hub_steps_data import CARD, safetensors
from sealed import Network
from support import ALEPHLAB, PROGRAMS
from test_private import gateway as anybody
from test_private import stored

MIB = 1 << 20
RULES = {"rules": [{"gateway": "*", "action": "*", "name": "*", "answer": "yes"}]}


class Broker:
    """One broker, of the first account, spoken to like a cell does."""

    def __init__(self, network: Network, number: int) -> None:
        made = network.run("token", "create", f"kernel-{number}", "--scope", "admin", "--json", *network.as_account("owner"))
        request = urllib.request.Request(f"{network.gateway}/v1/kernel-sessions", b"{}")
        request.add_header("Authorization", f"token {json.loads(made.stdout)['token']}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            session = json.load(answer)
        folder = network.folder / f"broker-{number}"
        folder.mkdir(mode=0o700)
        self.work, self.socket = folder / "work", folder / "s"
        self.work.mkdir()
        bootstrap = folder / "bootstrap.json"
        bootstrap.touch(mode=0o600)
        bootstrap.write_text(json.dumps({
            "socket": str(self.socket), "gateway": network.gateway, "kernel_id": session["kernel_id"],
            "kernel_token": session["token"], "aleph_url": network.node, "account": network.addresses["owner"],
            "work_dir": str(self.work),
        }))  # fmt: skip
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAMS / "alephlab-broker", "--bootstrap", bootstrap], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        network.processes.append(self.process)
        word, _, said = self.process.stdout.readline().partition(" ")
        assert word == "ready", self.log.read_text()
        self.url, self.token = (json.loads(said)["hub"][what] for what in ("url", "token"))

    def ask(self, **op: object) -> dict:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(json.dumps({"id": 1, **op}).encode() + b"\n")
            for line in connection.makefile():
                event = json.loads(line)
                if event["event"] == "done":
                    return event["result"]
                assert event["event"] in ("progress", "waiting"), event
        raise AssertionError("the broker went away")

    def publish(self, name: str, files: dict[str, bytes], **card: object) -> dict:
        for path, content in files.items():
            (self.work / path).write_bytes(content)
        said = {"title": name, "description": "", "licence": "", **card}
        listed = [{"name": path, "path": str(self.work / path)} for path in files]
        return self.ask(op="publish", name=name, card=said, files=listed)

    def get(self, path: str, token: str | None, **headers: str) -> tuple[int, bytes]:
        at = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        connection.request("GET", path, headers={**headers, **({"Authorization": f"Bearer {token}"} if token else {})})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def read(self, repo: str, path: str, home: Path) -> bytes:
        """As a stock client that knows address and token."""
        return Path(hf_hub_download(repo, path, endpoint=self.url, token=self.token, cache_dir=home)).read_bytes()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    running = Network(tmp_path_factory.mktemp("broker"), ("owner", "alice")).start()
    (running.folder / "data" / "rules.json").write_text(json.dumps(RULES))
    log = (running.folder / "keys.log").open("wb")
    keys = subprocess.Popen(
        [ALEPHLAB, "keys", *running.as_account("owner"), "--data", running.folder / "data"],
        env=running.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    running.processes.append(keys)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def broker(network: Network) -> Broker:
    return Broker(network, 1)


def stores(network: Network) -> dict[str, int]:
    """Every object that the node has, and its size: one STORE each."""
    return {path.name: path.stat().st_size for path in (network.folder / "node" / "files").rglob("*") if path.is_file()}


def weights(changed: int) -> bytes:
    """Four tensors of 16 MiB, so that each has an object of its own."""
    size, names = 16 * MIB, ("a", "b", "c", "d")
    header = {name: {"dtype": "U8", "shape": [size], "data_offsets": [at * size, (at + 1) * size]} for at, name in enumerate(names)}
    head = json.dumps(header).encode()
    tensors = [bytes([at + 1, changed if name == "c" else 0]) * (size // 2) for at, name in enumerate(names)]
    return len(head).to_bytes(8, "little") + head + b"".join(tensors)


def test_a_second_publish_stores_the_tensor_that_changed(network: Network, broker: Broker, tmp_path: Path) -> None:
    owner = network.addresses["owner"]
    before = stores(network)
    broker.publish("four", {"model.safetensors": weights(1)})
    first = stores(network)
    sizes = [size for name, size in first.items() if name not in before]
    assert sum(size > 8 * MIB for size in sizes) == 4, sizes
    broker.publish("four", {"model.safetensors": weights(2)})
    second = stores(network)
    new = [size for name, size in second.items() if name not in first]
    assert sum(size > 8 * MIB for size in new) == 1 and sum(new) < 17 * MIB, new
    assert broker.read(f"{owner}/four", "model.safetensors", tmp_path / "hub") == weights(2)
    network.model("owner", "pull", "four", "--to", tmp_path / "four")
    assert (tmp_path / "four" / "model.safetensors").read_bytes() == weights(2)
    # Another model of the same account has the same tensors, and is not looked at.
    broker.publish("four-again", {"model.safetensors": weights(2)})
    other = [size for name, size in stores(network).items() if name not in second]
    assert sum(size > 8 * MIB for size in other) == 4, other
    # A shell goes on with what was stored here, and this with what a shell stored.
    (tmp_path / "four" / "more.txt").write_text("more")
    assert network.model("owner", "publish", tmp_path / "four", "--name", "four")["uploaded"] < MIB
    known = stores(network)
    broker.publish("four", {"model.safetensors": weights(3), "more.txt": b"more"})
    new = [size for name, size in stores(network).items() if name not in known]
    assert sum(size > 8 * MIB for size in new) == 1, new


def test_the_hub_reads_what_the_account_may_read(network: Network, broker: Broker, tmp_path: Path) -> None:
    alice, made = network.addresses["alice"], {}
    for name, visibility in [("granted", "--sealed"), ("ungranted", "--sealed"), ("open", "--public"), ("hidden", "--private"), ("secret", "--private")]:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "README.md").write_text(CARD)
        (folder / "model.safetensors").write_bytes(safetensors(len(made) + 1, 3 * MIB))
        made[name] = network.model("alice", "publish", folder, visibility)
    for name in ("granted", "hidden"):
        network.model("alice", "grant", name, network.addresses["owner"])
    api = HfApi(endpoint=broker.url, token=broker.token)
    assert api.whoami()["name"] == network.addresses["owner"]
    for name in ("granted", "open", "hidden"):
        for path in ("README.md", "model.safetensors"):
            assert broker.read(f"{alice}/{name}", path, tmp_path / "home") == (tmp_path / name / path).read_bytes(), name
        assert api.model_info(f"{alice}/{name}").sha == made[name]["revision"]
    # Of a sealed model anybody may know that it is there; of a private one, and of none, nobody is told which it is.
    with pytest.raises(GatedRepoError):
        broker.read(f"{alice}/ungranted", "README.md", tmp_path / "home")
    for name in ("secret", "never"):
        with pytest.raises(RepositoryNotFoundError) as refused:
            broker.read(f"{alice}/{name}", "README.md", tmp_path / "home")
        assert refused.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="publish from a cell"):
        api.create_repo("mine")
    # Without the kernel's token there is nothing; another kernel's is none here.
    path = f"/{alice}/granted/resolve/main/README.md"
    nothing = broker.get(f"/{alice}/never/resolve/main/README.md", None)
    assert broker.get(path, None) == nothing and nothing[0] == 401
    assert broker.get(path, Broker(network, 2).token)[0] == 401
    assert broker.get(f"/{alice}/open/resolve/main/README.md", None) == nothing
    assert broker.get(path, broker.token, Host="evil.example")[0] == 403
    share = network.model("alice", "share", "ungranted", "--expires", "1h")
    shared = f"/m/{share['uuid']}/resolve/main/README.md"
    assert broker.get(shared, share["token"]) == (200, CARD.encode())
    assert broker.get(shared, broker.token)[0] == 401
    assert broker.token not in broker.log.read_text() and "Authorization" not in broker.log.read_text()


def test_a_private_publish_leaves_nothing_that_can_be_read(network: Network, broker: Broker, tmp_path: Path) -> None:
    owner, files = network.addresses["owner"], {"hush-weights.bin": os.urandom(3000), "notes-of-quokkas.txt": b"sequence-of-secrets"}
    done = broker.publish("quokka-net", files, private=True, tags=["quokka-tag"], description="Finds quokkas.")
    assert done["name"] == f"{owner}/quokka-net"
    shown = network.model("owner", "show", "quokka-net")
    assert (shown["visibility"], shown["card"]["tags"]) == ("private", ["quokka-tag"])
    assert broker.read(f"{owner}/quokka-net", "hush-weights.bin", tmp_path) == files["hush-weights.bin"]
    everything = stored(network)
    for word in (b"quokka", b"Quokka", b"hush-weights", b"sequence-of-secrets", files["hush-weights.bin"][:32]):
        assert word not in everything, word
    assert "no model called" in network.refused("alice", "pull", f"{owner}/quokka-net", "--to", tmp_path / "no")
    for path in ("/api/models/ID", "/ID/resolve/main/README.md", "/models/ID", "/v1/models/ID"):
        answers = [anybody(network, path.replace("ID", f"{owner}/{name}")) for name in ("quokka-net", "never-made")]
        assert {status for status, *_ in answers} <= {401, 404}, answers
        assert answers[0][2].replace(b"quokka-net", b"never-made") == answers[1][2], path
