"""JupyterLab as a page of the gateway, in Chromium, used as a person uses it who has a browser and nothing else."""

import json
import os
import re
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support import ROOT, Stack, run_alephlab, stop_stack, up

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
LINES = 80
ADA = Account.create()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


def notebook(*sources: str) -> str:
    cells = [
        {"cell_type": "code", "execution_count": None, "id": f"cell-{at}", "metadata": {}, "outputs": [], "source": source}
        for at, source in enumerate(sources)
    ]
    kernelspec = {"display_name": "Rust (Alephlab)", "language": "rust", "name": "alephlab"}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": "rust"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


SLOW = f"""for line in 0..{LINES} {{
    println!("line {{line}}");
    std::thread::sleep(std::time::Duration::from_millis(100));
}}
"the end\""""
LONG = notebook('std::fs::write("beside.txt", "written by a cell")?;', SLOW)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory):
    """`alephlab lab install`, then `alephlab up` with a second account, whose key is in her browser's wallet."""
    # This environment's Python, which has pip; the machine's own may lack it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    installed = run_alephlab("lab", "install", timeout=600, env={**os.environ, "PATH": path})
    assert installed.returncode == 0, installed.stderr
    folder = tmp_path_factory.mktemp("hosted")
    os.environ["ALEPHLAB__GATEWAY__ACCOUNTS"] = ADA.address
    stack = up(folder / "data", folder / "up.log")
    yield stack
    stop_stack(stack)
    del os.environ["ALEPHLAB__GATEWAY__ACCOUNTS"]


@pytest.fixture
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@contextmanager
def signed_in(browser: Browser, stack: Stack, name: str):
    """A page of somebody's own browser, after signing in with the token on the start page."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(stack.gateway_url)
    page.get_by_label("Access token").fill(stack.token)
    page.get_by_role("button", name="Sign in with token").click()
    expect(page.get_by_role("heading", name="This gateway is running")).to_be_visible()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    try:
        yield page
    finally:
        page.screenshot(path=ARTIFACTS / f"hosted-last-{name}.png")
        context.close()


def outputs(page: Page):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")


def test_a_notebook_that_runs_is_whole_when_it_is_opened_elsewhere(hosted: Stack, browser: Browser, tmp_path: Path):
    (tmp_path / "long.ipynb").write_text(LONG)
    with signed_in(browser, hosted, "first") as page:
        page.screenshot(path=ARTIFACTS / "hosted-start.png")
        page.get_by_role("link", name="Open JupyterLab").click()
        page.locator(".jp-LauncherCard", has_text="Rust (Alephlab)").first.wait_for(timeout=60_000)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Upload Files").click()
        chooser.value.set_files(tmp_path / "long.ipynb")
        page.locator(".jp-DirListing-item", has_text="long.ipynb").dblclick()
        expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        expect(outputs(page).last).to_contain_text("line 5", timeout=120_000)
        page.screenshot(path=ARTIFACTS / "hosted-running.png")
        # The page is closed while the cell runs; nothing was saved.
    with signed_in(browser, hosted, "second") as page:
        page.goto(f"{hosted.gateway_url}/lab/tree/long.ipynb?reset")
        expect(outputs(page).first).to_contain_text("line 5", timeout=60_000)
    with signed_in(browser, hosted, "third") as page:

        def whole() -> None:
            page.goto(f"{hosted.gateway_url}/lab/tree/long.ipynb?reset")
            expect(outputs(page).last).to_contain_text("the end", timeout=8_000)

        for attempt in range(4):
            try:
                whole()
                break
            except AssertionError:
                assert attempt < 3
        text = outputs(page).first.inner_text()
        assert text.split() == [word for line in range(LINES) for word in ("line", str(line))]
        # What a cell wrote lies beside its notebook.
        expect(page.locator(".jp-DirListing-item", has_text="beside.txt")).to_be_visible(timeout=20_000)
        page.screenshot(path=ARTIFACTS / "hosted-whole.png")


def test_settings_and_files_stay_and_a_killed_gateway_is_survived(hosted: Stack, browser: Browser, tmp_path: Path):
    with signed_in(browser, hosted, "killed") as page:
        # What an earlier page had open may have been kept, and would be opened in place of the launcher.
        page.goto(f"{hosted.gateway_url}/lab?reset")
        page.locator(".jp-LauncherCard", has_text="Rust (Alephlab)").first.click()
        expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
        expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute("data-status", "idle", timeout=60_000)
        page.locator(".jp-Notebook .jp-Cell.jp-mod-active .cm-content").click()
        page.keyboard.insert_text(SLOW)
        page.keyboard.press("Control+Enter")
        expect(outputs(page).last).to_contain_text("line 5", timeout=120_000)
        hosted.process.send_signal(signal.SIGKILL)
        hosted.process.wait(30)
        again = up(hosted.data, hosted.data.parent / "up.log")
        hosted.process, hosted.result = again.process, again.result
        # The page connects again by itself and goes on where it was.
        expect(outputs(page).last).to_contain_text("the end", timeout=120_000)
        lines = re.findall(r"line \d+", outputs(page).first.inner_text())
        assert sorted(set(lines), key=lines.index) == [f"line {line}" for line in range(LINES)]
        page.screenshot(path=ARTIFACTS / "hosted-survived.png")


def test_a_terminal_is_a_shell_in_the_folder_that_is_shown(hosted: Stack, browser: Browser):
    """What is shown is drawn, not text of the page, so what the shell does is looked at."""
    with signed_in(browser, hosted, "terminal") as page:
        page.goto(f"{hosted.gateway_url}/lab?reset")
        page.locator(".jp-LauncherCard", has_text="Terminal").first.click(timeout=60_000)
        page.locator(".jp-Terminal .xterm-screen").click(timeout=60_000)
        page.keyboard.type("kept=shell; echo $kept > one-$kept.txt\n")
        expect(page.locator(".jp-DirListing-item", has_text="one-shell.txt")).to_be_visible(timeout=30_000)
        page.screenshot(path=ARTIFACTS / "hosted-terminal.png")
        page.reload()
        page.locator(".jp-Terminal .xterm-screen").click(timeout=60_000)
        page.keyboard.type("echo $kept > two-$kept.txt\n")
        expect(page.locator(".jp-DirListing-item", has_text="two-shell.txt")).to_be_visible(timeout=30_000)
        page.screenshot(path=ARTIFACTS / "hosted-terminal-again.png")
        page.keyboard.type("rm one-$kept.txt two-$kept.txt; exit\n")
        expect(page.locator(".jp-Terminal")).to_have_count(0, timeout=30_000)


WALLET = """window.ethereum = {
  request: async ({ method, params }) => {
    if (method === "eth_requestAccounts") return [ADDRESS];
    if (method === "personal_sign") return await window.signText(params[0], params[1]);
    throw new Error("this wallet does not know " + method);
  },
};"""


def test_a_wallet_signs_in_and_sees_its_own_files_only(hosted: Stack, browser: Browser):
    """After the notebooks of the other account: in this module's order."""
    asked = []

    def sign(text: str, address: str) -> str:
        asked.append(text)
        assert address == ADA.address
        return "0x" + ADA.sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x")

    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.expose_function("signText", sign)
    page.add_init_script(WALLET.replace("ADDRESS", json.dumps(ADA.address)))
    page.goto(f"{hosted.gateway_url}/lab")
    assert asked == [], "on a press, never on load"
    page.screenshot(path=ARTIFACTS / "hosted-sign-in.png")
    page.get_by_role("button", name="Sign in with wallet").click()
    # Where she wanted to go.
    page.locator(".jp-LauncherCard", has_text="Rust (Alephlab)").first.wait_for(timeout=60_000)
    assert len(asked) == 1 and "This costs nothing and moves nothing" in asked[0]
    expect(page.locator(".jp-DirListing-content")).to_be_visible()
    expect(page.locator(".jp-DirListing-item")).to_have_count(0)
    page.goto(hosted.gateway_url)
    expect(page.get_by_text(ADA.address[:6])).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in with wallet")).to_be_visible()
    page.goto(f"{hosted.gateway_url}/lab")
    expect(page.get_by_role("heading", name="Sign in to this gateway")).to_be_visible()
    context.close()
