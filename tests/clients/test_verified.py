"""Verification that runs something: a forward pass, a model's own notebook, its evaluation; in kernels that reach nothing."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from hub_steps_data import CARD, safetensors
from support import Stack, run_alephlab


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
