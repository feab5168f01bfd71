"""A notebook on a rented host, in JupyterLab as our page: price seen, page closed and gateway killed mid-run, opened elsewhere."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from channels import ask
from support import Stack, run_alephlab, stop_stack, up, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", "target/test-artifacts"))
LINES = 150
SLOW = f"""for line in 0..{LINES} {{
    println!("line {{line}}");
    std::thread::sleep(std::time::Duration::from_millis(100));
}}
"the end\""""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A gateway and, apart from it, the network of hosts that it rents on."""
    with monkeypatch.context() as patch:
        patch.setenv("ALEPHLAB__HOSTS__ALEPH", "true")
        patch.setenv("ALEPHLAB__HOSTS__LOCAL", "RTX 4090")
        network = up(tmp_path / "network", tmp_path / "network.log")
    image = json.loads((tmp_path / "network/gateway/local-image.json").read_text())["item_hash"]
    for name, value in {
        "ALEPH__URL": network.aleph_url,
        "HOSTS__ALEPH": "true",
        "HOSTS__IMAGE": image,
        "HOSTS__CRNS": f"{network.aleph_url}/crns.json",
        "HOSTS__LISTEN": f"127.0.0.1:{free_port()}",
        "GATEWAY__LAB": str(Path(sys.prefix) / "share/jupyter"),
    }.items():
        monkeypatch.setenv(f"ALEPHLAB__{name}", value)
    monkeypatch.setenv("ALEPHLAB__HOSTS__ADDRESS", os.environ["ALEPHLAB__HOSTS__LISTEN"])
    running = up(tmp_path / "data", tmp_path / "up.log")
    done = run_alephlab("wallet", "credit", "owner", "5000000", "--data", running.data)
    assert done.returncode == 0, done.stderr
    yield running
    stop_stack(running)
    stop_stack(network)
    for process in psutil.process_iter(["cmdline"]):
        assert not ("/init" in (process.info["cmdline"] or []) and str(tmp_path) in str(process.info["cmdline"]))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@contextmanager
def signed_in(browser: Browser, stack: Stack, name: str):
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(f"{stack.gateway_url}/?token={stack.token}")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    try:
        yield page
    finally:
        page.screenshot(path=ARTIFACTS / f"rented-lab-{name}.png")
        context.close()


def outputs(page):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")


def notebook() -> str:
    cell = {
        "cell_type": "code", "execution_count": None, "id": "slow", "metadata": {}, "outputs": [], "source": SLOW,
    }  # fmt: skip
    spec = {"display_name": "Rust", "language": "rust", "name": "alephlab-rtx-4090"}
    return json.dumps({"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5})


def test_a_notebook_on_a_rented_host_is_whole_when_it_is_opened_elsewhere(stack: Stack, tmp_path: Path):
    (tmp_path / "slow.ipynb").write_text(notebook())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with signed_in(browser, stack, "first") as page:
            page.goto(f"{stack.gateway_url}/lab")
            # What it costs is seen before anything is chosen.
            page.locator(".jp-LauncherCard", has_text="RTX 4090 · 0.26 USD/h").first.wait_for(timeout=60_000)
            page.screenshot(path=ARTIFACTS / "rented-lab-launcher.png")
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Upload Files").click()
            chooser.value.set_files(tmp_path / "slow.ipynb")
            page.locator(".jp-DirListing-item", has_text="slow.ipynb").dblclick()
            expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("RTX 4090", timeout=60_000)
            # JupyterLab runs nothing before it has a session, whatever is pressed.
            ready = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator")
            expect(ready).to_have_attribute("data-status", "idle", timeout=60_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            expect(outputs(page).first).to_be_visible(timeout=60_000)
            page.screenshot(path=ARTIFACTS / "rented-lab-waits.png")
            expect(outputs(page).last).to_contain_text("line 5", timeout=120_000)
        # The page is closed while the cell runs, and the gateway is killed before anything was written down.
        stack.process.send_signal(signal.SIGKILL)
        stack.process.wait(30)
        again = up(stack.data, stack.data.parent / "up.log")
        stack.process, stack.result = again.process, again.result
        (kernel,) = [one["id"] for one in ask(stack, "/api/kernels") if one["name"] == "alephlab-rtx-4090"]
        # What was put out before the kill, and what comes after it: nobody but the host has it.
        wait_until(lambda: "line 6" in json.dumps(saved(stack)), 60, "the host at the next gateway")
        wait_until(lambda: "the end" in json.dumps(saved(stack)), 120, "the end of the cell in the notebook")
        with signed_in(browser, stack, "second") as page:
            page.goto(f"{stack.gateway_url}/lab/tree/slow.ipynb?reset")
            expect(outputs(page).last).to_contain_text("the end", timeout=60_000)
            lines = re.findall(r"line \d+", outputs(page).first.inner_text())
            assert sorted(set(lines), key=lines.index) == [f"line {line}" for line in range(LINES)]
        browser.close()
    request = urllib.request.Request(
        f"{stack.gateway_url}/api/kernels/{kernel}", method="DELETE", headers={"Authorization": f"token {stack.token}"}
    )
    urllib.request.urlopen(request, timeout=60).close()
    receipts = lambda: run_alephlab("receipt", "list", "--data", stack.data).stdout  # noqa: E731
    wait_until(lambda: "on RTX 4090" in receipts(), 60, "the receipt")


def saved(stack: Stack) -> list:
    """Outputs of the cell in the notebook."""
    return ask(stack, "/api/contents/slow.ipynb?content=1")["content"]["cells"][0]["outputs"]
