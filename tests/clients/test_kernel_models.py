"""Models in a kernel, on real parts: stock Hub clients that a cell starts read what its account may read; what a cell publishes is stored
as far as it changed; and a private one is nowhere to be seen."""

import hashlib
import http.client
import json
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import channels
from hub_steps_data import CARD, safetensors
from sealed import Network
from support import Stack, stop_stack, up, wait_until
from test_hub_write import rust_client, rust_client_1  # noqa: F401
from test_private import gateway as anybody

# What a stock client does that was told nothing: all it knows is in its environment.
DOWNLOAD = """
import hashlib, json, os, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
told = {"endpoint": os.environ["HF_ENDPOINT"], "who": HfApi().whoami()["name"]}
for repo in sys.argv[1:]:
    try:
        folder = snapshot_download(repo)
        found = {os.path.relpath(os.path.join(at, name), folder): os.path.join(at, name) for at, _, names in os.walk(folder) for name in names}
        told[repo] = {name: hashlib.sha256(open(path, "rb").read()).hexdigest() for name, path in found.items()}
    except RepositoryNotFoundError as error:
        told[repo] = [error.response.status_code, type(error).__name__]
try:
    HfApi().create_repo("mine")
except HfHubHTTPError as error:
    told["write"] = str(error)
print("TOLD" + json.dumps(told))
"""
NAMES = ("owner", "alice")


@dataclass
class Kernel:
    """A kernel of the first account, and one page that is connected to it."""

    stack: Stack

    def __post_init__(self) -> None:
        self.id = channels.ask(self.stack, "/api/kernels", {"name": "alephlab"})["id"]
        self.page = channels.Page(self.stack, self.id, "t")
        self.page.socket.settimeout(240)

    def run(self, code: str) -> list[dict]:
        message = self.page.run(code)
        heard = self.page.hear(message, "execute_reply")
        assert heard[-1]["content"]["status"] == "ok", heard[-1]["content"]
        # The reply comes on a channel of its own, perhaps before the last of what the cell said.
        while not any(said["content"].get("execution_state") == "idle" for said in heard):
            heard += self.page.hear(message, "status")
        return heard

    def hub(self) -> tuple[str, str]:
        """Where its hub is, and its token, as its cells find them."""
        (line,) = channels.lines(self.run('println!("{} {}", std::env::var("HF_ENDPOINT")?, std::env::var("HF_TOKEN")?);'))
        url, token = line.split()
        return url, token

    def program(self, *command: str) -> str:
        """What a program that a cell starts writes."""
        words = ", ".join(f'r#####"{word}"#####' for word in command)
        heard = self.run(
            f"""let said = std::process::Command::new({words.split(', ')[0]}).args([{words.partition(', ')[2]}]).env("HF_HUB_DISABLE_PROGRESS_BARS", "1").output()?;
println!("{{}}{{}}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));"""
        )
        return "\n".join(channels.lines(heard))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Network]]:
    network = Network(tmp_path_factory.mktemp("kernel-models"), NAMES)
    programs = network.folder / "programs"
    programs.mkdir()
    for name in NAMES:
        network.addresses[name] = network.run("wallet", "new", name, "--no-passphrase").stdout.strip()
    # A kernel's sandbox shows this Python and its packages, and the clients that were built for the tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEPHLAB__ISOLATION__VISIBLE", f"{sys.prefix},{sys.base_prefix},{programs}")
        stack = up(network.folder / "data", network.folder / "up.log")
    network.node, network.gateway = stack.aleph_url, stack.gateway_url
    for name in NAMES:
        network.run("wallet", "register-key", name)
    yield stack, network
    network.stop()
    stop_stack(stack)


@pytest.fixture(scope="module")
def kernel(here: tuple[Stack, Network]) -> Kernel:
    return Kernel(here[0])


@pytest.fixture(scope="module")
def models(here: tuple[Stack, Network], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Another account's models, and what is in each."""
    _, network = here
    made = {}
    for name, visibility in [("granted", "--sealed"), ("ungranted", "--sealed"), ("open", "--public"), ("hidden", "--private"), ("secret", "--private")]:  # fmt: skip
        folder = tmp_path_factory.mktemp("model") / name
        folder.mkdir()
        (folder / "README.md").write_text(CARD)
        (folder / "model.safetensors").write_bytes(safetensors(len(made) + 1, 3 << 20))
        made[name] = network.model("alice", "publish", folder, visibility)
        made[name]["hashes"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    for name in ("granted", "hidden"):
        network.model("alice", "grant", name, network.addresses["owner"])
    return made


def asked(url: str, path: str, token: str | None, **headers: str) -> tuple[int, dict, bytes]:
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.request("GET", path, headers={**headers, **({"Authorization": f"Bearer {token}"} if token else {})})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_a_stock_client_in_a_cell_reads_what_its_account_may_read_and_nothing_else(here, kernel: Kernel, models) -> None:
    _, network = here
    alice = network.addresses["alice"]
    share = network.model("alice", "share", "ungranted", "--expires", "1h")
    repos = {name: f"{alice}/{name}" for name in [*models, "never"]}
    said = kernel.program(sys.executable, "-c", DOWNLOAD, *repos.values(), f"m/{share['uuid']}")
    told = json.loads(said.partition("TOLD")[2].splitlines()[0]) if "TOLD" in said else pytest.fail(said)
    assert told["who"] == network.addresses["owner"]
    for name in ("granted", "open", "hidden"):
        assert told[repos[name]] == models[name]["hashes"], name
    # Of a sealed model anybody may know that it is there; of a private one, and of none, nobody is told which it is.
    assert told[repos["ungranted"]] == [403, "GatedRepoError"]
    assert told[repos["secret"]] == told[repos["never"]] == [401, "RepositoryNotFoundError"]
    assert told[f"m/{share['uuid']}"] == [401, "RepositoryNotFoundError"]
    assert "publish from a cell" in told["write"]
    network.run("share", "accept", share["uuid"], "--account", "owner", stdin=share["token"] + "\n")
    url, token = kernel.hub()
    shared = f"/m/{share['uuid']}/resolve/main/README.md"
    wait_until(lambda: asked(url, shared, token)[2] == CARD.encode(), 30, "the share is read")
    assert asked(url, shared, share["token"])[2] == CARD.encode(), "who has its token needs no other"


def test_other_programs_of_the_machine_read_nothing(here, kernel: Kernel, models) -> None:
    _, network = here
    url, token = kernel.hub()
    granted, public = (f"/{network.addresses['alice']}/{name}/resolve/main/README.md" for name in ("granted", "open"))
    assert asked(url, granted, token)[2] == CARD.encode()
    nothing = asked(url, f"/{network.addresses['alice']}/never/resolve/main/README.md", None)
    for other in (None, "hf_" + "x" * 34):
        status, headers, body = asked(url, granted, other)
        assert status == 401 and CARD.encode() not in body
        assert other or (body, headers["x-error-code"]) == (nothing[2], "RepoNotFound")
    assert asked(url, public, None)[0] == 401 and asked(url, public, token)[2] == CARD.encode()
    assert asked(url, granted, token, Host="evil.example")[0] == 403
    # Another kernel has another token, and this one's is nothing to it.
    assert asked(Kernel(here[0]).hub()[0], granted, token)[0] == 401
    assert token not in (network.folder / "up.log").read_text()


def test_the_crates_that_candle_users_have_download_in_a_cell(here, kernel: Kernel, models, rust_client, rust_client_1) -> None:  # noqa: F811
    _, network = here
    for program in (rust_client, rust_client_1):
        shutil.copy(program, network.folder / "programs" / program.name)
    old, new = (str(network.folder / "programs" / program.name) for program in (rust_client, rust_client_1))
    alice, (url, token) = network.addresses["alice"], kernel.hub()
    # It takes no token from the environment.
    told = json.loads(kernel.program(old, url, f"{alice}/granted", "model.safetensors", token).splitlines()[0])
    assert told["sha"] == models["granted"]["revision"] and "model.safetensors" in told["files"]
    assert hashlib.sha256(Path(told["path"]).read_bytes()).hexdigest() == models["granted"]["hashes"]["model.safetensors"]
    steps = [json.loads(line) for line in kernel.program(new, "read", alice, "granted", "model.safetensors").splitlines()]
    done = {step["step"]: step for step in steps}
    assert done["download file"]["ok"], steps


def test_a_cells_own_publish_stores_what_changed_and_opens_right(here, kernel: Kernel) -> None:
    _, network = here
    kernel.run(
        """let vars = VarMap::new();
for name in ["a", "b", "c", "d"] {
    let tensor = Tensor::rand(0f32, 1f32, (2048, 2048), &Device::Cpu)?;
    vars.data().lock().unwrap().insert(name.to_string(), Var::from_tensor(&tensor)?);
}"""
    )
    first = published(network, kernel, 'save(&vars, "four")?')
    assert sum(first) > 64 << 20
    kernel.run('vars.data().lock().unwrap()["b"].set(&Tensor::ones((2048, 2048), DType::F32, &Device::Cpu)?)?;')
    second = published(network, kernel, 'save(&vars, "four")?')
    # The tensor, the card and header that are packed together, and the manifest: no other tensor.
    assert [size for size in second if size > 8 << 20] == [max(second)], second
    assert sum(second) < (16 << 20) + (1 << 20), second
    # Another model of the same account is not looked at.
    other = published(network, kernel, 'save(&vars, "four-again")?')
    assert sum(other) > 64 << 20
    heard = kernel.run(
        f"""let read = pull("{network.addresses['owner']}/four", None)?.tensors(&Device::Cpu)?;
for name in ["a", "b", "c", "d"] {{
    let (one, other) = (read[name].flatten_all()?.to_vec1::<f32>()?, vars.data().lock().unwrap()[name].flatten_all()?.to_vec1::<f32>()?);
    println!("{{}}", one == other);
}}"""
    )
    assert channels.lines(heard) == ["true"] * 4
    # And from a shell, that goes on with what the kernel has stored.
    folder = network.folder / "four"
    network.model("owner", "pull", "four", "--to", folder)
    (folder / "more.txt").write_text("more")
    assert network.model("owner", "publish", folder, "--name", "four")["uploaded"] < 1 << 20


def published(network: Network, kernel: Kernel, saved: str) -> list[int]:
    """Sizes of the objects that were stored for a publish."""
    before = stores(network)
    kernel.run(f'publish(&{saved}, Card {{ title: "Four".into(), ..Card::default() }})?')
    return [size for name, size in stores(network).items() if name not in before]


def stores(network: Network) -> dict[str, int]:
    """Every object that the node has, and its size: one STORE each."""
    files = network.folder / "data" / "aleph" / "files"
    return {path.name: path.stat().st_size for path in files.rglob("*") if path.is_file()}


WORDS = ["quokka", "Quokka", "hush-weights", "sequence-of-secrets"]


def test_a_private_model_is_published_from_a_notebook_and_nobody_else_knows_of_it(here, kernel: Kernel) -> None:
    _, network = here
    heard = kernel.run(
        """let quiet = VarMap::new();
let network = nn::Mlp::new(&nn::MlpConfig { inputs: 4, hidden: vec![8], outputs: 3, ..nn::MlpConfig::default() }, seeded_vars(&quiet, 1, &Device::Cpu))?;
let saved = save(&quiet, "quokka-net")?.with_file("hush-weights.txt", "sequence-of-secrets")?;
publish(&saved, Card { title: "Quokka spotter".into(), private: true, ..Card::default() })?"""
    )
    owner = network.addresses["owner"]
    assert f"{owner}/quokka-net" in channels.result(heard)
    shown = network.model("owner", "show", "quokka-net")
    assert (shown["visibility"], shown["card"]["title"]) == ("private", "Quokka spotter")
    folder = network.folder / "quiet"
    network.model("owner", "pull", "quokka-net", "--to", folder)
    assert (folder / "hush-weights.txt").read_text() == "sequence-of-secrets"
    # The words of the cell are the notebook's, which a gateway relays and may keep; nothing else of them is anywhere.
    everything = stored_of(network)
    for word in [*WORDS, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir())]:
        assert word.encode() not in everything, word
    assert "no model called" in network.refused("alice", "pull", f"{owner}/quokka-net", "--to", network.folder / "no")
    for path in ("/api/models/ID", "/ID/resolve/main/README.md", "/models/ID", "/v1/models/ID"):
        answers = [anybody(network, path.replace("ID", f"{owner}/{name}")) for name in ("quokka-net", "never-made")]
        statuses, bodies = {status for status, *_ in answers}, [body for *_, body in answers]
        assert statuses <= {401, 404}, answers
        assert bodies[0].replace(b"quokka-net", b"never-made") == bodies[1], path
    # Its kernel's hub opens it, with the account's own word.
    url, token = kernel.hub()
    path = f"/{owner}/quokka-net/resolve/main/hush-weights.txt"
    assert asked(url, path, token)[2] == b"sequence-of-secrets"
    assert asked(url, path, None)[0] == 401


def stored_of(network: Network) -> bytes:
    """What the node and the gateway of `up` have written."""
    data = network.folder / "data"
    places = [data / "aleph", data / "gateway"]
    assert all(path.is_dir() for path in places), places
    return b"\n".join(path.read_bytes() for place in places for path in place.rglob("*") if path.is_file())
