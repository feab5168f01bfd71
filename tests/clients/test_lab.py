"""JupyterLab in Chromium, started with `--gateway-url` at our gateway, used as a person uses it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from support import ROOT, Stack, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
LAB_TOKEN = "lab-of-the-test"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(stack: Stack, tmp_path_factory: pytest.TempPathFactory):
    """A JupyterLab of its own folder whose kernels come from the running gateway."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks" / "quickstart.ipynb", folder)
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={LAB_TOKEN}",
        f"--gateway-url={stack.gateway_url}", f"--GatewayClient.auth_token={stack.token}",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    home = folder / ".home"
    env = {**os.environ, "HOME": str(home), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home)}
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "lab.log").read_text()
            with urllib.request.urlopen(f"{url}/api?token={LAB_TOKEN}", timeout=5) as answer:
                return answer.status == 200

        wait_until(answers, 90, "JupyterLab answers", ignoring=OSError)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def page(lab: str):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.goto(f"{lab}/lab/tree/quickstart.ipynb?token={LAB_TOKEN}&reset")
        yield page
        browser.close()


def menu(page: Page, name: str, item: str) -> None:
    page.get_by_role("menuitem", name=name, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def wait_for_idle(page: Page, seconds: float) -> None:
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator")).to_have_attribute(
        "data-status", "idle", timeout=seconds * 1000
    )


# JupyterLab keeps only what is in view in the page, so cells are found by being the active one.
ACTIVE = ".jp-Notebook .jp-Cell.jp-mod-active"


def scroll(page: Page, to: str) -> None:
    page.locator(".jp-WindowedPanel-outer").first.evaluate(f"e => e.scrollTo(0, {to})")


def run_in_new_cell(page: Page, code: str) -> None:
    """Types `code` into a new cell below the active one and runs it."""
    page.locator(ACTIVE).click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")


def expect_output(page: Page, text: str, seconds: float) -> None:
    """Waits for an output that matches, in whichever cell: where JupyterLab puts a new cell depends on the view."""
    shown = page.locator(".jp-OutputArea-output", has_text=re.compile(text))
    expect(shown.first).to_be_visible(timeout=seconds * 1000)


def test_notebook_runs_and_stays_usable_in_jupyterlab(page: Page) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
    wait_for_idle(page, 120)

    menu(page, "Run", "Run All Cells")
    scroll(page, "e.scrollHeight")
    # The source of the last cell names it too, so only an output counts.
    result = page.locator(".jp-OutputArea-output", has_text=re.compile(r'ALEPHLAB_RESULT \{"accuracy":0\.9[789]'))
    expect(result).to_be_visible(timeout=300_000)
    wait_for_idle(page, 60)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-OutputArea-output img, .jp-OutputArea-output svg").count() >= 1
    page.screenshot(path=ARTIFACTS / "lab-end.png")
    scroll(page, "0")
    expect(page.locator(".jp-OutputArea-output img, .jp-OutputArea-output svg").first).to_be_visible(timeout=20_000)
    page.screenshot(path=ARTIFACTS / "lab-start.png")

    scroll(page, "e.scrollHeight")
    run_in_new_cell(page, "let kept: i64 = 41;\nkept")
    expect_output(page, r"^\s*41\s*$", 60)
    wait_for_idle(page, 30)
    run_in_new_cell(page, 'println!("going round");\nloop { check_interrupt(); }')
    expect_output(page, "going round", 60)
    page.locator("[data-jp-item-name='interrupt'] button, [data-command='notebook:interrupt-kernel']").first.click()
    expect_output(page, "KeyboardInterrupt", 60)
    wait_for_idle(page, 30)
    run_in_new_cell(page, "kept + 1")
    expect_output(page, r"^\s*42\s*$", 60)
    page.screenshot(path=ARTIFACTS / "lab-interrupt.png")

    page.locator("[data-command='notebook:restart-kernel']").first.click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    wait_for_idle(page, 120)
    run_in_new_cell(page, "kept + 1")
    expect_output(page, "cannot find value", 120)
    run_in_new_cell(page, "6 * 70")
    expect_output(page, r"^\s*420\s*$", 60)
    page.screenshot(path=ARTIFACTS / "lab-restart.png")
