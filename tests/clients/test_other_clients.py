"""Clients that are neither JupyterLab nor ours: each starts a kernel at the gateway and runs cells as its users do."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from jupyter_kernel_client import JupyterKernelClient
from playwright.sync_api import expect, sync_playwright

from support import PROGRAMS, Stack, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", "target/test-artifacts"))
TOKEN = "notebook-seven"


def test_jupyter_kernel_client_runs_cells_and_its_kernel_ends_with_it(stack: Stack):
    # Its context manager starts ipykernel's kernelspec; others are named.
    client = JupyterKernelClient(server_url=stack.gateway_url, token=stack.token)
    client.start(name="alephlab")
    kernel = client.id
    first = client.execute('println!("printed"); let kept = 41;')
    assert first["status"] == "ok" and "printed" in first["outputs"][0]["text"]
    second = client.execute("kept + 1")
    assert second["outputs"][0]["data"]["text/plain"] == "42"
    failed = client.execute('panic!("on purpose")')
    assert failed["status"] == "error" and "on purpose" in str(failed["outputs"])
    assert kernel in {one["id"] for one in client.list_kernels()}
    client.stop()
    headers = {"Authorization": f"token {stack.token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{stack.gateway_url}/api/kernels", headers=headers)) as answer:
        assert kernel not in answer.read().decode()


def test_the_rust_websocket_client_runs_cells(stack: Stack):
    program = PROGRAMS / "examples" / "rust_client"
    cells = ['println!("printed");', "let kept = 41;", "kept + 1"]
    done = subprocess.run(
        [program, stack.gateway_url, stack.token, "alephlab", *cells], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # The binary framing that the gateway and the crate both know.
    assert done.stdout.splitlines() == ["Rust (Alephlab)", "BinaryV1", "printed", "42"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")
def test_notebook_7_runs_a_notebook_through_gateway_url(stack: Stack, tmp_path: Path):
    cells = [nbformat.v4.new_code_cell('println!("printed");\nlet kept = 41;'), nbformat.v4.new_code_cell("kept + 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"display_name": "Rust (Alephlab)", "language": "rust", "name": "alephlab"}
    nbformat.write(notebook, tmp_path / "seven.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {name: str(tmp_path / ".home") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    command = [
        sys.executable, "-m", "notebook", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={tmp_path}", f"--IdentityProvider.token={TOKEN}", "--allow-root",
        f"--gateway-url={stack.gateway_url}", f"--GatewayClient.auth_token={stack.token}",
    ]  # fmt: skip
    log = tmp_path / "notebook.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **own}, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            with urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5) as answer:
                return answer.status == 200

        wait_until(answers, 90, "Notebook 7 answers", ignoring=OSError)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(f"{url}/notebooks/seven.ipynb?token={TOKEN}")
            expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=90_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            shown = page.locator(".jp-OutputArea-output")
            expect(shown.filter(has_text=re.compile("printed")).first).to_be_visible(timeout=120_000)
            expect(shown.last).to_contain_text("42", timeout=60_000)
            ARTIFACTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=ARTIFACTS / "notebook-7.png")
            browser.close()
    finally:
        process.terminate()
        process.wait(30)
