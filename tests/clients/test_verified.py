"""Verification that runs something: a forward pass, a model's own notebook, its evaluation; in kernels that reach nothing."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from hub_steps_data import CARD, safetensors
from support import ALEPHLAB, Stack, run_alephlab, stop_stack, up, wait_until

CLAMSCAN = shutil.which("clamscan")


def model(stack: Stack, *arguments: object, fails: bool = False) -> dict:
    done = run_alephlab("model", *arguments, "--json", "--data", stack.data, timeout=300)
    assert done.returncode == int(fails), f"{arguments}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def checks(report: dict) -> dict[str, dict]:
    return {check["id"]: check for check in report["checks"]}


def notebook(path: Path, *cells: str) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "README.md").write_text(CARD)
    (root / "model.safetensors").write_bytes(safetensors(2, 1 << 10))
    yield root


def test_a_known_network_is_passed_through_and_the_evidence_is_shown(stack: Stack, tmp_path: Path) -> None:
    owner, name = stack.result["model"].split("/")
    report = model(stack, "verify", name, "--run", "--attest", "--logs", tmp_path / "logs")
    loads = checks(report)["V5"]
    assert loads["outcome"] == "passed", loads
    [tool] = loads["tools"]
    assert tool["name"].startswith("forward pass of alephlab-") and "numbers" in tool["name"], tool
    log = (tmp_path / "logs" / "loading.ipynb").read_bytes()
    assert b"forward_pass" in log and "log " in tool["version"]
    assert checks(report)["V8"]["outcome"] == "not_run"
    request = urllib.request.Request(f"{stack.gateway_url}/v1/models/{owner}/{name}")
    request.add_header("Authorization", f"Bearer {stack.token}")
    page = json.load(urllib.request.urlopen(request))
    [evidence] = page["evidence"]
    assert evidence["evidence"]["verifier"] == owner and evidence["evidence"]["report"] == report
    # Nobody's word counts for their own model.
    assert evidence["counts"] is False


def test_another_model_shows_by_notebooks_that_it_loads_and_measures_what_it_claims(stack: Stack, folder: Path) -> None:
    load = 'let weights = load(".")?.tensors(&Device::Cpu)?;'
    notebook(folder / "verify.ipynb", load, 'weights["layer.1"].mean_all()?.to_scalar::<f32>()?')
    notebook(folder / "evaluation.ipynb", load, 'report("tensors", weights.len() as f64)?;')
    (folder / "README.md").unlink()
    card = ["--name", "measured", "--card-title", "Measured", "--card-licence", "mit", "--card-metric"]
    model(stack, "publish", folder, *card, "tensors=2")
    found = checks(model(stack, "verify", "measured", "--run"))
    assert found["V5"]["outcome"] == "passed" and found["V5"]["tools"][0]["name"] == "verify.ipynb"
    assert found["V8"]["outcome"] == "passed", found["V8"]
    assert "tensors 2" in found["V8"]["tools"][0]["name"]
    model(stack, "publish", folder, *card, "tensors=3")
    claimed = checks(model(stack, "verify", "measured", "--run"))["V8"]
    assert claimed["outcome"] == "failed" and "`tensors` is 2 here, the card claims 3" in claimed["findings"][0]["why"]


def test_what_a_model_runs_reaches_nothing(stack: Stack, folder: Path) -> None:
    port = stack.gateway_url.rsplit(":", 1)[1]
    reach = f'assert!(std::net::TcpStream::connect("127.0.0.1:{port}").is_err(), "the gateway answers");'
    read = f'assert!(std::fs::read_dir("{stack.data}/accounts").is_err(), "keys can be looked for");'
    keys = 'println!("{}", secret("ANY").unwrap_err());'
    notebook(folder / "verify.ipynb", reach, read, keys)
    model(stack, "publish", folder, "--name", "curious")
    found = checks(model(stack, "verify", "curious", "--run"))
    assert found["V5"]["outcome"] == "passed", found["V5"]
    notebook(folder / "verify.ipynb", 'let hoard = vec![1u8; 3 << 30]; println!("{}", hoard.iter().map(|b| *b as u64).sum::<u64>());')
    model(stack, "publish", folder, "--name", "curious")
    found = checks(model(stack, "verify", "curious", "--run", "--memory", "1", fails=True))
    assert found["V5"]["outcome"] == "failed", found["V5"]


def test_a_model_that_shows_nothing_is_not_verified(stack: Stack, folder: Path) -> None:
    model(stack, "publish", folder, "--name", "silent")
    found = checks(model(stack, "verify", "silent", "--run"))
    assert found["V5"]["outcome"] == "not_run" and "verify.ipynb" in found["V5"]["findings"][0]["why"]
    notebook(folder / "verify.ipynb", "let nothing = 1;")
    model(stack, "publish", folder, "--name", "silent")
    found = checks(model(stack, "verify", "silent", "--run", fails=True))
    assert found["V5"]["outcome"] == "failed" and "showed anything" in found["V5"]["findings"][0]["why"]


def page_of(gateway: str, path: str) -> str:
    with urllib.request.urlopen(f"{gateway}/models/{path}", timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.skipif(CLAMSCAN is None, reason="ClamAV is missing: apt-get install clamav")
def test_a_model_becomes_verified_and_a_gateway_that_reads_the_network_says_so_too(
    stack: Stack, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    verifier = stack.result["model"].split("/")[0]
    load = 'let weights = load(".")?.tensors(&Device::Cpu)?;'
    notebook(folder / "verify.ipynb", load, 'weights["layer.1"].mean_all()?.to_scalar::<f32>()?')
    notebook(folder / "evaluation.ipynb", load, 'report("tensors", weights.len() as f64)?;')
    (folder / "README.md").unlink()
    card = ["--card-title", "Checked", "--card-licence", "mit", "--card-metric", "tensors=2"]
    made = model(stack, "publish", folder, "--public", "--name", "checked", *card, "--account", "reader")
    name, database = made["model"], tmp_path / "small.hdb"
    database.write_text("44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n")
    assert "Not verified" in page_of(stack.gateway_url, name)
    verify = ["verify", name, "--run", "--attest", "--scanner", CLAMSCAN, "--clamav-database", database]
    report = model(stack, *verify)
    assert report["verified"], [check for check in report["checks"] if check["outcome"] != "passed"]
    assert checks(report)["V8"]["tools"][0]["host"]
    shown = page_of(stack.gateway_url, name)
    assert re.search(r'badge good".*?Verified ', shown), shown
    assert "Reproduced on" not in shown and "512" in shown
    assert "on 1 host" in page_of(stack.gateway_url, f"{name}/verification")
    with urllib.request.urlopen(f"{stack.gateway_url}/api/models/{name}", timeout=60) as answer:
        assert json.load(answer)["safetensors"] == {"parameters": {"F32": 512}, "total": 512}
    # Another gateway, of which only the network and whose word counts is told.
    monkeypatch.setenv("ALEPHLAB__ALEPH__URL", stack.aleph_url)
    monkeypatch.setenv("ALEPHLAB__REGISTRY__VERIFIERS", verifier)
    other = up(tmp_path / "other", tmp_path / "other.log")
    try:
        done = run_alephlab("registry", "rebuild", "--data", other.data)
        assert done.returncode == 0, done.stderr
        assert re.search(r'badge good".*?Verified ', page_of(other.gateway_url, name))
    finally:
        stop_stack(other)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is missing: apt-get install bubblewrap")
def test_an_evaluation_is_reproduced_by_a_second_host(stack: Stack, folder: Path, tmp_path: Path, monkeypatch) -> None:
    load = 'let weights = load(".")?.tensors(&Device::Cpu)?;'
    notebook(folder / "verify.ipynb", load, 'weights["layer.1"].mean_all()?.to_scalar::<f32>()?')
    notebook(folder / "evaluation.ipynb", load, 'report("tensors", weights.len() as f64)?;')
    (folder / "README.md").unlink()
    card = ["--card-title", "Twice", "--card-licence", "mit", "--card-metric", "tensors=2", "--account", "reader"]
    name = model(stack, "publish", folder, "--public", "--name", "twice", *card)["model"]
    model(stack, "verify", name, "--run", "--attest")
    model(stack, "verify", name, "--run", "--attest")
    assert "Reproduced on" not in page_of(stack.gateway_url, name)
    # The command elsewhere is no second host: its kernels are those of the same `up`.
    other_id = tmp_path / "machine-id"
    other_id.write_text("0123456789abcdef0123456789abcdef\n")
    elsewhere = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--ro-bind", other_id, "/etc/machine-id"]
    command = [*elsewhere, ALEPHLAB, "model", "verify", name, "--run", "--attest", "--json", "--data", stack.data]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = checks(json.loads(done.stdout.splitlines()[-1]))["V8"]["tools"]
    assert len({run["host"] for run in runs}) == 1 and "Reproduced on" not in page_of(stack.gateway_url, name)
    # This machine under another id, as a second one would be, with an `up` of its own: what tells hosts apart is all that differs.
    shutil.copytree(stack.data / "accounts", tmp_path / "other" / "accounts")
    monkeypatch.setenv("ALEPHLAB__ALEPH__URL", stack.aleph_url)
    other = up(tmp_path / "other", tmp_path / "other.log", before=elsewhere)
    try:
        report = model(other, "verify", name, "--run", "--attest")
        assert len({run["host"] for run in checks(report)["V8"]["tools"]}) == 2
        # An evidence without a run loses neither.
        report = model(other, "verify", name, "--attest")
        assert len(checks(report)["V8"]["tools"]) == 2 and checks(report)["V5"]["outcome"] == "passed", report
    finally:
        stop_stack(other)
    assert run_alephlab("registry", "rebuild", "--data", stack.data).returncode == 0
    wait_until(lambda: "Reproduced on 2 hosts" in page_of(stack.gateway_url, name), 60, "the badge does not come")
