"""A model's whole way between four accounts, on real parts: published from a notebook, signed by its owner, verified, found, shared by
link, opened by another account with one click; the same from a shell with `hf`; refused to a third account; revoked; and shown by a
second gateway from the network alone. In this module's order: each test goes on where the one before it ended."""

import http.client
import io
import json
import os
import pickle
import re
import secrets
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest
from playwright.sync_api import Browser, Page, expect

import channels
from hub_steps_data import CARD, safetensors
from sealed import Network
from support import ALEPHLAB, CHROMIUM, ROOT, Stack, run_alephlab, stop_stack, up

ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
HF = Path(sys.executable).with_name("hf")
SCANNER = shutil.which("clamscan")
SECONDS = 120
MIB = 1 << 20
PUBLISH = """let config = nn::MlpConfig { inputs: 4, hidden: vec![8], outputs: 3, ..nn::MlpConfig::default() };
let vars = VarMap::new();
let network = nn::Mlp::new(&config, seeded_vars(&vars, 1, &Device::Cpu))?;
let saved = save(&vars, "petals")?.with_file(nn::CONFIG_FILE, config.to_json())?;
publish(&saved, Card {
    title: "Petals".into(),
    description: "Tells three flowers apart.\\n\\n<script>window.ran = 1</script><img src=x onerror=window.ran=1>".into(),
    licence: "mit".into(),
    task: Some("tabular-classification".into()),
    ..Card::default()
})?"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@dataclass
class Flow:
    """A gateway with JupyterLab, a node, and four accounts on one machine; bob and carol are strangers to the owner."""

    stack: Stack
    network: Network

    @property
    def owner(self) -> str:
        return self.network.addresses["owner"]

    def token(self, account: str) -> str:
        """An access token, as a person makes one for their browser."""
        made = self.network.run("token", "create", f"browser-{secrets.token_hex(4)}", "--scope", "admin", "--json", *self.network.as_account(account))
        return json.loads(made.stdout)["token"]


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    # This environment's Python, which has pip; the machine's own may lack it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    installed = run_alephlab("lab", "install", timeout=600, env={**os.environ, "PATH": path})
    assert installed.returncode == 0, installed.stderr
    network = Network(tmp_path_factory.mktemp("flow"), ("owner", "bob", "carol", "vera"))
    for name in network.names:
        network.addresses[name] = network.run("wallet", "new", name, "--no-passphrase").stdout.strip()
    # Nothing is signed by a rule: the owner is asked.
    (network.folder / "data" / "rules.json").write_text('{"rules": []}')
    with verified_by(network.addresses["vera"]):
        stack = up(network.folder / "data", network.folder / "up.log")
    network.node, network.gateway = stack.aleph_url, stack.gateway_url
    for name in network.names:
        network.run("wallet", "register-key", name)
    yield Flow(stack, network)
    network.stop()
    stop_stack(stack)


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bool]:
    """ClamAV with a database of one signature, where it is installed: its own is large, and fetched from elsewhere."""
    if SCANNER is None:
        yield False
        return
    # Scanners run behind walls, which show a folder of programs whole and else the program alone.
    folder = tmp_path_factory.mktemp("scanner") / "bin"
    folder.mkdir()
    (folder / "small.hdb").write_text("44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n")
    (folder / "clamscan").write_text(f'#!/bin/sh\nexec {SCANNER} --database={folder}/small.hdb "$@"\n')
    (folder / "clamscan").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    yield True
    os.environ["PATH"] = before


@contextmanager
def verified_by(address: str, **more: str) -> Iterator[None]:
    """Settings of a gateway that takes this verifier's word."""
    settings = {"ALEPHLAB__REGISTRY__VERIFIERS": address, **more}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


@pytest.fixture(scope="module")
def bob(flow: Flow, browser: Browser) -> Iterator[Page]:
    """The second account's browser, signed in."""
    yield signed_in(flow, browser, "bob")


def signed_in(flow: Flow, browser: Browser, account: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{flow.stack.gateway_url}/?next=/models")
    page.get_by_label("Access token").fill(flow.token(account))
    page.get_by_role("button", name="Sign in with token").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    return page


@contextmanager
def keys(flow: Flow, account: str) -> Iterator[pexpect.spawn]:
    """`alephlab keys` of an account at a terminal, as a person runs it."""
    command = ["keys", "--account", account, "--data", str(flow.stack.data)]
    running = pexpect.spawn(str(ALEPHLAB), command, encoding="utf-8", timeout=SECONDS, dimensions=(40, 160))
    running.logfile_read = sys.stdout
    running.expect("answer http")
    yield running
    running.sendintr()
    running.expect(pexpect.EOF)


def hf(endpoint: str, token: str, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the Hub's own command, which knows an address and a token and nothing else of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told = {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"NO_PROXY": "127.0.0.1", "NO_COLOR": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [HF, *map(str, arguments)]
    return subprocess.run(command, env=kept | told | quiet, capture_output=True, text=True, timeout=SECONDS)


def asked(url: str, path: str, token: str | None, body: dict | None = None) -> tuple[int, dict, bytes]:
    """Status, headers and body of one request."""
    connection = connected(url, path, token, body)
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, answer.read()


def connected(url: str, path: str, token: str | None, body: dict | None = None) -> http.client.HTTPConnection:
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
    connection.request(method, path, sent, headers | ({"content-type": "application/json"} if body else {}))
    return connection


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if ".cache" not in path.parts}


def test_a_notebook_publishes_what_its_owner_signs_and_a_verifier_checks(flow: Flow, scanner: bool) -> None:
    network = flow.network
    kernel = channels.ask(flow.stack, "/api/kernels", {"name": "alephlab"})["id"]
    page = channels.Page(flow.stack, kernel, "owner")
    with keys(flow, "owner") as owner:
        cell = page.run(PUBLISH)
        # Before anything is stored, and once more when it is known what is to be signed.
        for _ in range(2):
            owner.expect(f"wants to publish {flow.owner}/petals")
            owner.expect("allow")
            owner.sendline("y")
        heard = page.hear(cell, "execute_reply")
    assert heard[-1]["content"]["status"] == "ok", heard[-1]
    assert f"{flow.owner}/petals" in channels.result(heard)
    network.model("owner", "grant", "petals", network.addresses["vera"])
    report = network.model("vera", "verify", f"{flow.owner}/petals", "--run", "--attest")
    outcomes = {check["id"]: check["outcome"] for check in report["checks"]}
    assert {outcomes[id] for id in ("V1", "V2", "V3", "V4", "V5")} == {"passed"}, outcomes
    # Two scanners are wanted, of which one is ours.
    assert outcomes["V6"] == ("passed" if scanner else "not_run"), report


def test_it_is_found_while_one_types(flow: Flow, bob: Page, scanner: bool) -> None:
    said: list[str] = []
    bob.on("console", lambda message: said.append(message.text))
    bob.on("pageerror", lambda error: said.append(str(error)))
    bob.evaluate("window.same = true")
    bob.get_by_role("searchbox", name="Search models").press_sequentially("peta")
    expect(bob.get_by_role("status")).to_have_text("1 match")
    expect(bob.get_by_role("searchbox", name="Search models")).to_be_focused()
    word = "Verified" if scanner else "Sealed"
    bob.get_by_role("checkbox", name=re.compile(f"^{word}")).check()
    expect(bob.get_by_role("link", name=f"{word}, remove this filter")).to_be_visible()
    expect(bob.get_by_role("checkbox", name=re.compile(f"^{word}"))).to_be_focused()
    assert "q=peta" in bob.url and ("trust=verified" in bob.url) == scanner
    # All of it in one page, which was not loaded again.
    assert bob.evaluate("window.same")
    bob.reload()
    expect(bob.get_by_role("article")).to_have_count(1)
    bob.get_by_role("article").get_by_role("link").click()
    expect(bob.get_by_text("Tells three flowers apart.").first).to_be_visible()
    expect(bob.get_by_role("link", name=re.compile("^Verified" if scanner else "^Not verified"))).to_be_visible()
    assert bob.evaluate("window.ran") is None and "onerror" not in bob.content()
    bob.get_by_role("link", name="hf", exact=True).click()
    expect(bob.get_by_text("hf download")).to_be_visible()
    assert "client=hf" in bob.url
    bob.get_by_role("navigation", name="Model").get_by_role("link", name=re.compile("^Verification")).click()
    expect(bob.get_by_text("forward pass").first).to_be_visible()
    assert said == []


def test_what_is_typed_and_ticked_counts_as_it_stands_and_a_lost_request_leaves_the_list(flow: Flow, bob: Page) -> None:
    bob.goto(f"{flow.stack.gateway_url}/models")
    tick = bob.get_by_role("checkbox", name=re.compile("^Sealed"))
    # The search waits for its answer, and is overtaken by a tick.
    held = []
    bob.route(re.compile(r"/models\?"), lambda route: route.continue_() if held else held.append(route))
    with bob.expect_request(re.compile(r"q=peta")):
        bob.get_by_role("searchbox", name="Search models").fill("peta")
    tick.check()
    expect(bob.get_by_role("link", name="Sealed, remove this filter")).to_be_visible()
    expect(bob.get_by_role("status")).to_have_text("1 match")
    assert "q=peta" in bob.url and "sealed" in bob.url
    bob.unroute_all(behavior="ignoreErrors")
    # A key that is held asks for another tab.
    with bob.context.expect_page() as opened:
        bob.get_by_role("link", name="Sealed, remove this filter").click(modifiers=["ControlOrMeta"])
    opened.value.close()
    expect(tick).to_be_checked()
    # No answer: the list stays, and can be asked for again.
    bob.route(re.compile(r"/models\?"), lambda route: route.abort())
    tick.uncheck()
    expect(bob.get_by_role("alert")).to_contain_text("was not refreshed")
    expect(bob.get_by_role("article")).to_have_count(1)
    bob.unroute_all(behavior="ignoreErrors")
    bob.get_by_role("button", name="Try again").click()
    expect(bob.get_by_role("link", name="Sealed, remove this filter")).to_have_count(0)
    expect(bob.get_by_role("alert")).to_have_count(0)
    # A filter is a step of Back; no page is kept in the browser's storage.
    bob.go_back()
    expect(bob.get_by_role("link", name="Sealed, remove this filter")).to_be_visible()
    assert not bob.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}]).includes('<')")


def test_a_share_is_opened_in_a_notebook_with_one_click(flow: Flow, bob: Page) -> None:
    share = flow.network.model("owner", "share", "petals", "--expires", "1h")
    sent: list[str] = []
    bob.on("request", lambda request: sent.extend((request.url, str(request.headers), request.post_data or "")))
    bob.goto(f"{share['page']}#t={share['token']}")
    expect(bob.get_by_text(f"HF_TOKEN={share['token']}")).to_be_visible()
    # The token goes to bob's own machine: a terminal asks for it and does not show it.
    accept = bob.locator("#accept").inner_text().split()
    accepting = pexpect.spawn(str(ALEPHLAB), [*accept[1:], "--account", "bob", "--data", str(flow.stack.data)], timeout=SECONDS)
    said = accepting.logfile_read = io.BytesIO()
    accepting.expect("not shown")
    assert accepting.waitnoecho()
    accepting.sendline(bob.locator("#token").inner_text().strip())
    accepting.expect("can now pull")
    accepting.expect(pexpect.EOF)
    assert b"not shown" in said.getvalue() and share["token"].encode() not in said.getvalue()
    with keys(flow, "bob") as own:
        bob.get_by_role("button", name="Open in notebook").click()
        expect(bob.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
        bob.get_by_role("menuitem", name="Run", exact=True).click()
        bob.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        own.expect("wants to open")
        own.expect("allow")
        own.sendline("y")
        outputs = bob.locator(".jp-NotebookPanel .jp-OutputArea-output")
        expect(outputs.first).to_contain_text("petals", timeout=SECONDS * 1000)
        expect(outputs.last).to_contain_text("[8, 4]", timeout=SECONDS * 1000)
        bob.keyboard.press("Escape")
        bob.keyboard.press("b")
        bob.keyboard.press("Enter")
        bob.keyboard.insert_text("let again: nn::Mlp = nn::Mlp::from_model(&load(model.path())?, &device()?)?;\nagain.parameter_count()")
        bob.keyboard.press("Control+Enter")
        expect(outputs.last).to_contain_text(str(4 * 8 + 8 + 8 * 3 + 3), timeout=SECONDS * 1000)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    bob.screenshot(path=ARTIFACTS / "flow-notebook.png")
    # Nothing of the token went to the gateway, in no address, header, body or frame, and so it keeps nothing.
    assert len(sent) > 30 and not any(share["token"] in one for one in sent)
    assert share["token"] not in bob.content()
    kept = [path for path in flow.stack.data.rglob("*") if path.is_file() and "accounts" not in path.parts]
    assert share["token"].encode() not in b"".join(path.read_bytes() for path in kept if path.stat().st_size < 8 * MIB)


@dataclass
class Shelled:
    """A model that `hf` has uploaded, and a share of it."""

    files: dict[str, bytes]
    share: dict
    sha256: str


@pytest.fixture(scope="module")
def shelled(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Shelled:
    folder, home = tmp_path_factory.mktemp("shelled"), tmp_path_factory.mktemp("home")
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    # More than sockets hold, so that a download can be under way.
    (folder / "model.safetensors").write_bytes(safetensors(1, 32 * MIB))
    hub = flow.network.hub("owner")
    done = hf(hub.url, hub.token, home, "upload", "shelled", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(asked(hub.url, f"/api/models/{hub.name}/shelled?blobs=true", hub.token)[2])
    sha256 = next(one["lfs"]["sha256"] for one in listed["siblings"] if one["rfilename"] == "model.safetensors")
    return Shelled(files(folder), flow.network.model("owner", "share", "shelled"), sha256)


def test_the_same_is_done_from_a_shell_with_hf(flow: Flow, shelled: Shelled, tmp_path: Path) -> None:
    network, share = flow.network, shelled.share
    done = hf(network.gateway, share["token"], tmp_path / "home", "download", f"m/{share['uuid']}", "--local-dir", tmp_path / "shared")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path / "shared") == shelled.files
    network.model("owner", "grant", "shelled", network.addresses["bob"])
    hub = network.hub("bob")
    done = hf(hub.url, hub.token, tmp_path / "own", "download", f"{flow.owner}/shelled", "--local-dir", tmp_path / "granted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path / "granted") == shelled.files


def test_a_third_account_is_refused_everywhere(flow: Flow, shelled: Shelled, browser: Browser, tmp_path: Path) -> None:
    network, name, uuid = flow.network, f"{flow.owner}/shelled", shelled.share["uuid"]
    file, hub = "model.safetensors", network.hub("carol")
    revision = network.model("owner", "show", "shelled")["revision"]
    for token in (flow.token("carol"), "hf_" + "A" * 34, None):
        for path in (f"/api/models/m/{uuid}", f"/m/{uuid}/resolve/main/{file}", f"/m/{uuid}/resolve/{revision}/{file}"):
            status, headers, _ = asked(network.gateway, path, token)
            assert (status, headers["x-error-code"]) == (401, "RepoNotFound"), path
        for at in ("main", revision, shelled.sha256):
            status, _, body = asked(network.gateway, f"/{name}/resolve/{at}/{file}", token)
            assert status in (401, 403, 404) and len(body) < 2_000, (at, status)
    for at, wanted in (("main", (403, "GatedRepo")), (revision, (403, "GatedRepo")), (shelled.sha256, (404, "RevisionNotFound"))):
        status, headers, _ = asked(hub.url, f"/{name}/resolve/{at}/{file}", hub.token)
        assert (status, headers["x-error-code"]) == wanted
    # Who knows a hash has nothing by it: the hub wants the bytes themselves.
    assert asked(hub.url, "/api/repos/create", hub.token, {"name": "taken", "type": "model"})[0] == 200
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": shelled.sha256, "size": len(shelled.files[file])}]}
    answer = json.loads(asked(hub.url, f"/{hub.name}/taken.git/info/lfs/objects/batch", hub.token, batch)[2])
    assert "upload" in answer["objects"][0]["actions"], answer
    status, _, sent = asked(network.node, f"/api/v0/storage/raw/{shelled.sha256}", None)
    assert status == 404, sent[:100]
    for model in (name, uuid):
        assert "hint: " in network.refused("carol", "pull", model, "--to", tmp_path / "no")
    done = hf(network.gateway, "hf_" + "A" * 34, tmp_path / "home", "download", f"m/{uuid}")
    assert done.returncode != 0 and "not found" in done.stderr + done.stdout
    page = signed_in(flow, browser, "carol")
    page.goto(f"{network.gateway}/shares")
    expect(page.get_by_text("None of your models is shared")).to_be_visible()
    assert page.goto(f"{network.gateway}/shares/{uuid}/revoke").status == 404
    # The page of a share is the same for all UUIDs; what it opens is not for her.
    page.goto(f"{network.gateway}/models/{name}/files")
    expect(page.get_by_text(file).first).to_be_visible()
    assert page.locator('a[href*="/resolve/"]').count() == 0
    page.context.close()


def test_revoking_ends_a_download_that_is_under_way(flow: Flow, shelled: Shelled, browser: Browser, tmp_path: Path) -> None:
    network, share = flow.network, shelled.share
    path, whole = f"/m/{share['uuid']}/resolve/main/model.safetensors", len(shelled.files["model.safetensors"])
    connection = connected(network.gateway, path, share["token"])
    answer = connection.getresponse()
    assert answer.status == 200 and int(answer.getheader("content-length")) == whole
    answer.read(MIB)
    page = signed_in(flow, browser, "owner")
    page.goto(f"{network.gateway}/shares/{share['uuid']}/revoke")
    page.get_by_role("button", name="Revoke share").click()
    expect(page.get_by_text("The share is revoked.")).to_be_visible()
    # What was in the sockets comes; the rest does not.
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    for asks in (path, f"/api/models/m/{share['uuid']}"):
        status, headers, _ = asked(network.gateway, asks, share["token"])
        assert (status, headers["x-error-code"]) == (401, "RepoNotFound")
    done = hf(network.gateway, share["token"], tmp_path / "home", "download", f"m/{share['uuid']}")
    assert done.returncode != 0
    page.context.close()


def test_a_pickle_under_another_name_is_refused_with_its_reason(flow: Flow, browser: Browser, tmp_path: Path) -> None:
    network, home = flow.network, tmp_path / "home"
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": os.system}))
    said = network.refused("owner", "publish", folder)
    assert "model.safetensors" in said and "ickle" in said, said
    hub = network.hub("owner")
    done = hf(hub.url, hub.token, home, "upload", "pickled", folder)
    assert done.returncode != 0 and "ickle" in done.stdout + done.stderr, done.stdout + done.stderr
    # Its owner insists; who looks at it is told.
    network.model("owner", "publish", folder, "--unchecked")
    network.model("owner", "grant", "pickled", network.addresses["vera"])
    checking = network.tried("model", "verify", f"{flow.owner}/pickled", "--attest", *network.as_account("vera"))
    assert checking.returncode == 1, checking.stdout + checking.stderr
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{network.gateway}/models?q=pickled")
    expect(page.get_by_role("article").get_by_text("Refused")).to_be_visible()
    page.get_by_role("article").get_by_role("link").click()
    page.get_by_role("link", name=re.compile("^Refused")).click()
    expect(page.get_by_text(re.compile("pickle")).first).to_be_visible()
    page.screenshot(path=ARTIFACTS / "flow-refused.png", full_page=True)
    page.context.close()


def shown(gateway: str, path: str) -> str:
    """A page as anybody sees it, without what is this gateway's own: its address, and what it counted."""
    with urllib.request.urlopen(gateway + path, timeout=60) as answer:
        html = answer.read().decode().replace(gateway, "GATEWAY")
    return re.sub(r"\d+ pulls?|<dt>Pulls</dt><dd>\d+</dd>", "PULLS", html)


def test_another_gateway_shows_the_same_from_the_network_alone(flow: Flow, tmp_path: Path) -> None:
    network = flow.network
    with verified_by(network.addresses["vera"], ALEPHLAB__ALEPH__URL=network.node):
        other = up(tmp_path / "data", tmp_path / "up.log")
    try:
        done = run_alephlab("registry", "rebuild", "--data", tmp_path / "data", env={**os.environ, "ALEPHLAB__ALEPH__URL": network.node})
        assert done.returncode == 0, done.stderr
        names = [f"{flow.owner}/{name}" for name in ("petals", "shelled", "pickled")]
        pages = [f"/models/{name}{tab}" for name in names for tab in ("", "/files", "/revisions", "/verification")]
        for path in ["/models", "/models?trust=verified", *pages]:
            assert shown(other.gateway_url, path) == shown(network.gateway, path), path
    finally:
        stop_stack(other)
