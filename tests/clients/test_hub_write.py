"""Stock Hub clients publish and download: against the registry over a folder in clear (`folder_hub`, an example of the crate),
and against `alephlab hub`, which seals and opens, over a node and a gateway.

Every client does what it can of the same steps; what came out are tables in docs/hub-clients.md, written anew when all of them
ran. Two releases of `huggingface_hub`: the one that is installed, and the newest of the major version before it.
"""

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from hub_steps_data import safetensors
from sealed import Network
from support import PROGRAMS, ROOT, wait_until

TOKENS = {"ALICE": "hf_alice_00", "BOB": "hf_bob_00", "READER": "hf_reader_00"}
PREVIOUS = "1.33.0"
STEPS = Path(__file__).with_name("hub_steps.py")
PAGE = ROOT / "docs" / "hub-clients.md"
NOW = version("huggingface_hub")
XET, PLAIN = "default (Xet)", "`HF_HUB_DISABLE_XET=1`"
LIBRARIES = [f"huggingface_hub {release}, {way}" for release in (NOW, PREVIOUS) for way in (XET, PLAIN)]
OTHERS = [f"`hf` {NOW}", f"`hf` {PREVIOUS}", f"transformers {version('transformers')}", "hf-hub 0.5.0 (Rust)", "hf-hub 1.0.0 (Rust)"]


# What cargo says where crates cannot be downloaded.
NO_CRATES = ["failed to download", "download of", "Could not resolve host", "Could not connect", "failed to get"]


class Kind:
    """What steps need to know of a hub: whose it is, and where the second account asks."""

    title: str
    url: str
    bob_url: str
    alice: str
    staging: Path
    tokens: dict[str, str]
    more: dict[str, str]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return {
            **kept, **self.tokens, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "NO_COLOR": "1", **self.more, **more,
        }  # fmt: skip


@dataclass
class Hub(Kind):
    """A running hub over a folder of its own."""

    folder: Path
    process: subprocess.Popen = field(init=False)
    title = "Over a folder, in clear"
    alice, tokens, more = "alice", TOKENS, {}

    @property
    def staging(self) -> Path:
        return self.folder / "staging"

    def start(self, *options: str) -> None:
        accounts = [f"alice={TOKENS['ALICE']}", f"bob={TOKENS['BOB']}", f"reader={TOKENS['READER']}:read"]
        command = [PROGRAMS / "examples" / "folder_hub", self.folder, *options, *accounts]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.bob_url = self.url


class SealedHub(Kind):
    """A hub of alice's and one of bob's, on one machine and over one network."""

    title = "`alephlab hub`: sealed models, over an Aleph node and a gateway"

    def __init__(self, folder: Path) -> None:
        self.network = Network(folder, ("alice", "bob")).start()
        alice, bob = self.network.hub("alice"), self.network.hub("bob")
        self.url, self.bob_url, self.alice = alice.url, bob.url, alice.name
        self.staging, self.process = alice.folder / "staging", alice.process
        self.tokens = {"ALICE": alice.token, "BOB": bob.token}
        self.more = {"SEALED": "1", "BOB_ENDPOINT": bob.url, "ALICE_NAME": alice.name, "BOB_NAME": bob.name}


class AtGateway:
    """What is read from a gateway itself: public models, and shares by who has their token."""

    title = "A gateway: public models, and shares with their token; read only"
    PUBLIC, SHARE = "hf-hub 1.0.0 (Rust), public model", "hf-hub 1.0.0 (Rust), share"
    clients = [PUBLIC, SHARE]


@pytest.fixture(scope="module", params=["folder", "sealed"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    if request.param == "sealed":
        sealed = SealedHub(tmp_path_factory.mktemp("sealed"))
        yield sealed
        sealed.network.stop()
        return
    # Parts of 5 MB, so that 12 MiB are uploaded in parts by those who can.
    running = Hub(tmp_path_factory.mktemp("hub"))
    running.start("--part", "5000000")
    yield running
    running.process.kill()


@pytest.fixture(scope="module")
def tables() -> Iterator[dict[str, dict[str, dict[str, str]]]]:
    """Kind of hub, to client, to step, to what came out."""
    found = {Hub.title: {}, SealedHub.title: {}, AtGateway.title: {}}
    yield found
    if all(set(of) == set(clients_of(title)) for title, of in found.items()):
        text = page(found)
        if not PAGE.exists() or PAGE.read_text() != text:
            PAGE.write_text(text)


@pytest.fixture
def table(tables, hub: Kind) -> dict[str, dict[str, str]]:
    """Client to step to what came out, of this hub."""
    return tables[hub.title]


def clients_of(title: str) -> list[str]:
    return AtGateway.clients if title == AtGateway.title else [*LIBRARIES, *OTHERS]


def page(found: dict[str, dict[str, dict[str, str]]]) -> str:
    lines = [
        "# Hub clients",
        "",
        "Which stock client does what, as the tests with real clients last found. Generated by",
        "`tests/clients/test_hub_write.py`; what a client was not asked is empty.",
        "",
        f"`huggingface_hub` {NOW} and {PREVIOUS} upload by Xet (hf-xet {version('hf-xet')}) unless it is switched off.",
    ]
    for title, of in found.items():
        clients = clients_of(title)
        steps = list(dict.fromkeys(step for client in clients for step in of[client]))
        lines += ["", f"## {title}", "", "| Step | " + " | ".join(clients) + " |", "|---" * (1 + len(clients)) + "|"]
        lines += [f"| {step} | " + " | ".join(of[client].get(step, "") for client in clients) + " |" for step in steps]
    lines += [
        "",
        "A sealed model differs from a repository in the clear where it must: its first revision is its first commit (until",
        "then the repository is a draft of that machine), it has one branch and tags without slashes, anybody may know that it is",
        "there (it is gated, not hidden), and it keeps the name that it was signed with.",
        "",
        "`ModelCard.push_to_hub` of huggingface_hub 1 asks huggingface.co itself whether the card is right, whatever",
        "`HF_ENDPOINT` says; there, the step uploads the card's text.",
        "",
    ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def previous() -> Path:
    """A folder with the release before, for `PYTHONPATH`."""
    folder = PROGRAMS.parent / "clients" / f"huggingface_hub-{PREVIOUS}"
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        command += ["--target", str(folder), f"huggingface_hub=={PREVIOUS}", f"hf-xet=={version('hf-xet')}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            pytest.skip(f"huggingface_hub {PREVIOUS} cannot be installed: {done.stderr[-200:]}")
        (folder / "done").write_text("")
    return folder


def built(name: str) -> Path:
    """A client in Rust, built where the other clients are kept."""
    source, target = Path(__file__).with_name(name), PROGRAMS.parent / "clients" / name
    command = ["cargo", "build", "--locked", "--quiet", "--target-dir", target, "--manifest-path", source / "Cargo.toml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        # A client that does not compile is a fault; only without its crates there is nothing to say.
        assert any(word in done.stderr for word in NO_CRATES), done.stderr
        pytest.skip(f"the crates of {name} cannot be had: {done.stderr[-200:]}")
    return target / "debug" / name


@pytest.fixture(scope="module")
def rust_client() -> Path:
    return built("hf_hub_client")


@pytest.fixture(scope="module")
def rust_client_1() -> Path:
    return built("hf_hub_1_client")


def environment_of(client: str, hub: Kind, home: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    more = {"HF_HUB_DISABLE_XET": "1"} if PLAIN in client else {}
    if PREVIOUS in client:
        more["PYTHONPATH"] = str(request.getfixturevalue("previous"))
    return hub.environment(home, **more)


@pytest.mark.parametrize("client", LIBRARIES)
def test_huggingface_hub_does_every_step(client, hub: Kind, table, tmp_path: Path, request) -> None:
    name = f"steps-{LIBRARIES.index(client)}"
    xorbs = set(hub.staging.glob("xorbs/*/*"))
    env = environment_of(client, hub, tmp_path / "home", request)
    done = subprocess.run(
        [sys.executable, STEPS, name, tmp_path / "work"], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    table[client] = {step["step"]: "yes" if step["ok"] else "**no**" for step in steps}
    came_by_xet = set(hub.staging.glob("xorbs/*/*")) != xorbs
    assert came_by_xet == (XET in client)
    assert len(steps) > 15 and all(step["ok"] for step in steps), "\n".join(step.get("why", "") for step in steps)


@pytest.mark.parametrize("client", OTHERS[:2])
def test_hf_command_publishes_and_downloads(client, hub: Kind, table, tmp_path: Path, request) -> None:
    env = environment_of(client, hub, tmp_path / "home", request) | {"HF_TOKEN": hub.tokens["ALICE"]}
    repo, folder = f"{hub.alice}/command-{OTHERS.index(client)}", tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- shell\n---\n# From a shell\n")
    (folder / "weights.bin").write_bytes(os.urandom(3 << 20))

    def hf(*arguments: str, status: int = 0, **more: str) -> str:
        # As a module, so that the release in `PYTHONPATH` is the one that runs.
        command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", *map(str, arguments)]
        done = subprocess.run(
            command, env={**env, **more}, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
        assert (done.returncode == 0) == (status == 0), f"hf {arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    found = table.setdefault(client, {})
    assert hub.alice in hf("auth", "whoami")
    assert "nvalid" in hf("auth", "whoami", status=1, HF_TOKEN="hf_wrong")
    found["whoami, wrong token, no token"] = "yes"
    hf("repos", "create", repo)
    found["create repo"] = "yes"
    hf("upload", repo, folder / "README.md", "README.md")
    found["upload file (regular)"] = "yes"
    hf("upload", repo, folder, ".")
    found["upload folder (regular and large)"] = "yes"
    hf("download", repo, "weights.bin", "--local-dir", tmp_path / "one")
    assert (tmp_path / "one" / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    found["download file"] = "yes"
    hf("download", repo, "--local-dir", tmp_path / "all")
    assert (tmp_path / "all" / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    found["download snapshot"] = "yes"
    assert repo in hf("models", "ls", "--no-truncate", "--search", repo.split("/")[1], "--filter", "shell")
    assert repo not in hf("models", "ls", "--no-truncate", "--filter", "no-such-tag")
    found["list, search, filter, sort, pages"] = "yes"
    hf("repos", "tag", "create", repo, "v1")
    assert "v1" in hf("repos", "tag", "list", repo)
    hf("repos", "tag", "delete", repo, "v1", "-y")
    found["tags, branches, refs, history"] = "yes"
    hf("repos", "settings", repo, "--gated", "auto")
    as_bob = {"HF_TOKEN": hub.tokens["BOB"], "HF_ENDPOINT": hub.bob_url}
    assert "requires approval" in hf("download", repo, "weights.bin", status=1, **as_bob)
    found["gated answer"] = "yes"
    hf("repos", "delete", repo, "-y")
    hf("download", repo, "weights.bin", "--local-dir", tmp_path / "gone", status=1)
    found["move and delete repo"] = "yes"


TRANSFORMERS = """
import json, sys
from huggingface_hub import HfApi
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, GPT2Config, PreTrainedTokenizerFast
repo = sys.argv[1]
words = Tokenizer(models.WordLevel({"[UNK]": 0, "sealed": 1, "weights": 2}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").push_to_hub(repo)
GPT2Config(n_layer=2, vocab_size=3).push_to_hub(repo)
config, tokenizer = AutoConfig.from_pretrained(repo), AutoTokenizer.from_pretrained(repo)
pinned = AutoConfig.from_pretrained(repo, revision=HfApi().model_info(repo).sha)
print(json.dumps({"layers": [config.n_layer, pinned.n_layer], "ids": tokenizer("sealed weights here")["input_ids"]}))
"""


def test_transformers_pushes_and_loads_config_and_tokenizer(hub: Kind, table, tmp_path: Path) -> None:
    env = hub.environment(tmp_path / "home", HF_TOKEN=hub.tokens["ALICE"])
    done = subprocess.run(
        [sys.executable, "-c", TRANSFORMERS, f"{hub.alice}/words"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"layers": [2, 2], "ids": [1, 2, 0]}
    table[OTHERS[2]] = dict.fromkeys(
        ["create repo", "upload file (regular)", "download file", "config and tokenizer: push, load, load at a commit"],
        "yes",
    )


def wait_known(hub: Kind, repo: str, name: str) -> None:
    """Waits until bob's hub shows this file of alice's: one that has just looked at what its neighbour has does not look again at once."""
    request = urllib.request.Request(
        f"{hub.bob_url}/api/models/{repo}", headers={"Authorization": f"Bearer {hub.tokens['BOB']}"}
    )

    def is_known() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return any(file["rfilename"] == name for file in json.load(answer)["siblings"])
        except urllib.error.HTTPError:
            return False

    wait_until(is_known, 60, "the second account's hub does not see what was published")


def test_the_crate_that_candle_examples_use_downloads(hub: Kind, table, rust_client, tmp_path: Path) -> None:
    content, repo = os.urandom(12_345_678), f"{hub.alice}/rust"
    upload = "import sys; from huggingface_hub import HfApi; api = HfApi(token=sys.argv[1]); " \
        "api.create_repo(sys.argv[3], private=False); " \
        "api.upload_file(path_or_fileobj=sys.argv[2], path_in_repo='sub/model.bin', repo_id=sys.argv[3]); " \
        "api.upload_file(path_or_fileobj=b'{}', path_in_repo='config.json', repo_id=sys.argv[3])"  # fmt: skip
    (tmp_path / "model.bin").write_bytes(content)
    env = hub.environment(tmp_path / "home")
    command = [sys.executable, "-c", upload, hub.tokens["ALICE"], tmp_path / "model.bin", repo]
    subprocess.run(command, env=env, check=True, timeout=120)

    def client(*arguments: str, url: str = hub.url) -> subprocess.CompletedProcess[str]:
        return subprocess.run([rust_client, url, *arguments], env=env, capture_output=True, text=True, timeout=120)

    got = json.loads(client(repo, "sub/model.bin").stdout)
    assert got["files"] == ["config.json", "sub/model.bin"] and len(got["sha"]) == 40
    assert Path(got["path"]).read_bytes() == content
    wait_known(hub, repo, "config.json")
    as_bob = client(repo, "config.json", hub.tokens["BOB"], url=hub.bob_url)
    assert as_bob.returncode == 0, as_bob.stderr
    assert client(repo, "none.bin").returncode != 0
    refused = client(repo, "config.json", "hf_wrong")
    assert refused.returncode != 0 and "401" in refused.stderr, refused.stderr
    table[OTHERS[3]] = {"download file": "yes", "whoami, wrong token, no token": "yes", "tree and file facts": "yes"}


def test_the_crate_since_1_publishes_and_downloads(hub: Kind, table, rust_client_1, tmp_path: Path) -> None:
    folder = tmp_path / "upload"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(3, 1 << 20))
    (folder / "sub" / "vocab.txt").write_text("a\nb\n")

    def steps(*arguments: object, url: str = hub.url, token: str = hub.tokens["ALICE"]) -> dict[str, dict]:
        env = hub.environment(tmp_path / "home", HF_TOKEN=token, HF_ENDPOINT=url)
        done = subprocess.run([rust_client_1, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}

    found = steps("write", hub.alice, "rust-1", folder)
    wait_known(hub, f"{hub.alice}/rust-1", "model.safetensors")
    found |= steps("read", hub.alice, "rust-1", "model.safetensors", url=hub.bob_url, token=hub.tokens["BOB"])
    table[OTHERS[4]] = {name: "yes" if step["ok"] else "**no**" for name, step in found.items()}
    assert all(step["ok"] for step in found.values()), found
    assert Path(found["download file"]["found"]).read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_crate_since_1_reads_public_models_and_shares_of_a_gateway(tables, rust_client_1, tmp_path: Path) -> None:
    folder, network = tmp_path / "model", Network(tmp_path / "network", ("alice",)).start()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(3, 1 << 20))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Open\n")

    def read(owner: str, name: str, token: str | None) -> dict[str, dict]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        asked = {"HF_ENDPOINT": network.gateway, "HF_HOME": str(tmp_path / f"home-{name}"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [rust_client_1, "read", owner, name, "model.safetensors"], env={**kept, **asked, **({"HF_TOKEN": token} if token else {})},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}

    try:
        owner = network.addresses["alice"]
        network.model("alice", "publish", folder, "--name", "open", "--public")
        network.model("alice", "publish", folder, "--name", "closed")
        share = network.model("alice", "share", "closed")
        asked = {AtGateway.PUBLIC: (owner, "open", None), AtGateway.SHARE: ("m", share["uuid"], share["token"])}
        for client, of in asked.items():
            found = read(*of)
            tables[AtGateway.title][client] = {name: "yes" if step["ok"] else "**no**" for name, step in found.items()}
            assert len(found) == 3 and all(step["ok"] for step in found.values()), found
            assert Path(found["download file"]["found"]).read_bytes() == (folder / "model.safetensors").read_bytes()
        for of in ((owner, "closed", None), ("m", share["uuid"], None), ("m", share["uuid"], "hf_wrong")):
            assert not read(*of)["download file"]["ok"], of
    finally:
        network.stop()


def test_an_upload_goes_on_after_the_hub_was_killed(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    hub.start("--part", "5000000")
    content = os.urandom(40 << 20)
    (tmp_path / "large.bin").write_bytes(content)
    code = "import sys; from huggingface_hub import HfApi; api = HfApi(token=sys.argv[1]); " \
        "api.create_repo('alice/cut', exist_ok=True); " \
        "api.upload_file(path_or_fileobj=open(sys.argv[2], 'rb'), path_in_repo='large.bin', repo_id='alice/cut')"  # fmt: skip
    command = [sys.executable, "-c", code, TOKENS["ALICE"], str(tmp_path / "large.bin")]
    first = subprocess.Popen(command, env=hub.environment(tmp_path / "home"), stderr=subprocess.DEVNULL)
    staging = hub.folder / "staging"
    wait_until(lambda: list(staging.glob("parts/*/*/1")), 60, "no part came")
    hub.process.kill()
    hub.process.wait()
    first.kill()
    first.wait()
    assert not list(staging.glob("objects/*/*")), "a part was taken for the whole"
    hub.start("--part", "5000000")
    try:
        subprocess.run(command, env=hub.environment(tmp_path / "home"), check=True, timeout=120)
        name = hashlib.sha256(content).hexdigest()
        objects = [path for path in hub.folder.glob("models/alice/cut/objects/*") if path.name == name]
        assert [path.read_bytes() == content for path in objects] == [True]
        assert not list(staging.glob("parts/*/*")) and not list(staging.glob("tmp/*"))
    finally:
        hub.process.kill()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    hub.start()
    try:
        large = tmp_path / "large.bin"
        with large.open("wb") as file:
            for _ in range(16):
                file.write(os.urandom(8 << 20))
        code = "import sys; from huggingface_hub import HfApi; api = HfApi(token=sys.argv[1]); " \
            "api.create_repo('alice/memory', exist_ok=True); " \
            "api.upload_file(path_or_fileobj=sys.argv[2], path_in_repo=sys.argv[3], repo_id='alice/memory'); " \
            "api.hf_hub_download('alice/memory', sys.argv[3])"  # fmt: skip
        for n, way in enumerate(("0", "1")):
            env = hub.environment(tmp_path / f"home-{n}", HF_HUB_DISABLE_XET=way)
            command = [sys.executable, "-c", code, TOKENS["ALICE"], str(large), f"{n}.bin"]
            subprocess.run(command, env=env, check=True, timeout=300)
        status = Path(f"/proc/{hub.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        # Several streams of at most 4 MiB at a time, and the program itself; the file has 128 MiB.
        assert peak < 80 << 10, f"{peak} KiB"
    finally:
        hub.process.kill()
