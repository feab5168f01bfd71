"""JupyterLab in Chromium, started with `--gateway-url` at our gateway, used as a person uses it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, TimeoutError as PlaywrightTimeout, expect, sync_playwright

from support import HAS_DEBUGGER, ROOT, Stack, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
LAB_TOKEN = "lab-of-the-test"
DEBUGGED = "let sides = vec![2.0, 3.0];\nlet mut total = sides[0] * sides[1];\ntotal += 1.0;\ntotal"
WATCHED = """use std::sync::atomic::{AtomicU64, Ordering};
static SEEN: AtomicU64 = AtomicU64::new(0);
println!("going round");
loop {
    SEEN.fetch_add(1, Ordering::Relaxed);
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


UPLOAD = """let notes = file_upload("Notes");
notes"""
UPLOADED = """for file in notes.files() {
    println!("{} {} {}", file.name, file.bytes.len(), file.bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
}"""


def notebook_of(source: str) -> str:
    """A notebook of one cell."""
    cell = {"cell_type": "code", "execution_count": None, "id": "c0", "metadata": {}, "outputs": [], "source": source}
    kernelspec = {"display_name": "Rust (Alephlab)", "language": "rust", "name": "alephlab"}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": "rust"}}
    return json.dumps({"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def jupyterlab(folder: Path, *arguments: str) -> Iterator[str]:
    """A JupyterLab of its own over a folder; its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={LAB_TOKEN}", *arguments,
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    home = folder / ".home"
    # Not HOME: a kernel that is started here has the person's toolchain.
    own = {name: str(home) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    env = {**os.environ, **own}
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


@contextmanager
def browser_at(lab: str, notebook: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.goto(f"{lab}/lab/tree/{notebook}.ipynb?token={LAB_TOKEN}&reset")
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        yield page
        # What was last seen, for who reads of a failure.
        page.screenshot(path=ARTIFACTS / f"lab-last-{notebook}.png")
        browser.close()


@pytest.fixture(scope="module")
def lab(stack: Stack, tmp_path_factory: pytest.TempPathFactory):
    """A JupyterLab whose kernels come from the running gateway."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("quickstart", "display", "crates"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)
    (folder / "debugger.ipynb").write_text(notebook_of(DEBUGGED))
    (folder / "watched.ipynb").write_text(notebook_of(WATCHED))
    gateway = (f"--gateway-url={stack.gateway_url}", f"--GatewayClient.auth_token={stack.token}")
    with jupyterlab(folder, *gateway) as url:
        yield url


@pytest.fixture
def page(lab: str, request: pytest.FixtureRequest):
    """A browser with a notebook: `quickstart`, or the one that the test's parameter names."""
    with browser_at(lab, getattr(request, "param", "quickstart")) as page:
        yield page


@pytest.fixture
def page_without_gateway(kernel_for_stack: str, tmp_path: Path):
    """A browser with the notebook `upload` in a JupyterLab that starts the kernel itself."""
    (tmp_path / "upload.ipynb").write_text(notebook_of(UPLOAD))
    with jupyterlab(tmp_path) as lab, browser_at(lab, "upload") as page:
        yield page


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


def run_all(page: Page, seconds: float) -> None:
    expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
    wait_for_idle(page, 120)
    menu(page, "Run", "Run All Cells")
    wait_for_idle(page, seconds)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0


@pytest.mark.parametrize("page", ["display"], indirect=True)
def test_rich_displays_and_widgets_in_jupyterlab(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 3600})
    run_all(page, 240)
    outputs = page.locator(".jp-OutputArea-output")
    for shown in [
        outputs.locator("table", has_text="latitude"),
        outputs.locator("table", has_text="[784, 128, 10]"),
        outputs.locator("audio"),
        outputs.locator("mjx-container").first,
        page.locator(".vega-embed canvas, .vega-embed svg").first,
        outputs.locator("progress").first,
    ]:
        expect(shown).to_be_visible(timeout=30_000)
    for control in [".widget-slider", ".widget-text", ".widget-button", ".widget-hprogress"]:
        expect(page.locator(control)).to_be_visible(timeout=30_000)
    # The person moves the slider, presses the button, types a name: the code hears of all three.
    page.locator(".widget-slider .noUi-handle, .widget-slider [role=slider]").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect_output(page, r"rate is 0\.3", 30)
    for _ in range(3):
        page.locator("button.jupyter-button", has_text="Train").click()
    page.locator(".widget-text input").fill("Grace")
    page.screenshot(path=ARTIFACTS / "lab-display.png")
    page.locator(".jp-Cell").last.click()
    page.keyboard.press("Control+Enter")
    expect_output(page, r"\(0\.3\d*, \"Grace\", 3, 3(\.0)?\)", 60)
    page.screenshot(path=ARTIFACTS / "lab-widgets.png")


def choose_file(page: Page, folder: Path) -> None:
    """Runs the notebook and hands a file of every byte to it."""
    notes = folder / "notes.bin"
    notes.write_bytes(bytes(range(256)) * 400)
    run_all(page, 240)
    with page.expect_file_chooser() as chooser:
        page.locator("button.jupyter-button", has_text="Notes").click()
    chooser.value.set_files(notes)
    expect(page.locator("button.jupyter-button", has_text="Notes (1)")).to_be_visible(timeout=30_000)


def test_a_file_chosen_in_jupyterlab_comes_to_the_code(page_without_gateway: Page, tmp_path: Path) -> None:
    page = page_without_gateway
    choose_file(page, tmp_path)
    run_in_new_cell(page, UPLOADED)
    expect_output(page, r"notes\.bin 102400 13056000", 60)
    page.screenshot(path=ARTIFACTS / "lab-upload.png")


@pytest.mark.parametrize("page", ["crates"], indirect=True)
def test_a_notebook_of_many_crates_in_jupyterlab(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 2600})
    run_all(page, 600)
    expect_output(page, r"y = 3\.0 x \+ 2\.0", 60)
    plot = page.locator(".jp-OutputArea-output img, .jp-OutputArea-output svg").first
    expect(plot).to_be_visible(timeout=20_000)
    page.screenshot(path=ARTIFACTS / "lab-crates.png")


def open_subshell_console(page: Page) -> None:
    """JupyterLab shows the menu's entry when it has heard from the kernel that it has subshells."""
    entry = page.locator(".lm-Menu-item:not(.lm-mod-hidden)", has_text="New Subshell Console for Notebook")
    for _ in range(5):
        page.locator(".jp-Notebook .jp-Cell").first.click(button="right")
        try:
            return entry.click(timeout=5_000)
        except PlaywrightTimeout:
            page.keyboard.press("Escape")
    raise AssertionError("the kernel's subshells are not offered")


@pytest.mark.parametrize("page", ["watched"], indirect=True)
def test_a_subshell_console_looks_on_while_a_cell_runs(page: Page) -> None:
    expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
    wait_for_idle(page, 120)
    page.locator(".jp-Cell .cm-line").first.click()
    page.keyboard.press("Control+Enter")
    expect_output(page, "going round", 60)
    opened: list[str] = []

    def hear(frame: str | bytes) -> None:
        if "create_subshell_reply" in str(frame):
            opened.append("subshell")

    page.on("websocket", lambda socket: socket.on("framereceived", hear))
    open_subshell_console(page)
    console = page.locator(".jp-CodeConsole")
    prompt = console.locator(".jp-CodeConsole-promptCell .cm-content")
    expect(prompt).to_be_visible(timeout=30_000)
    # A cell that is sent before goes to the main shell. Asking the page lets the frames be heard.
    wait_until(lambda: page.evaluate("true") and bool(opened), 30, "the console has its subshell")
    for code, shown in [('println!("beside {}", SEEN.load(Ordering::Relaxed) > 0);', "beside true"), ("6 * 7", "42")]:
        prompt.click()
        page.keyboard.insert_text(code)
        page.keyboard.press("Shift+Enter")
        expect(console.locator(".jp-OutputArea-output", has_text=shown).first).to_be_visible(timeout=60_000)
    page.screenshot(path=ARTIFACTS / "lab-subshell.png")
    # The notebook's cell has heard nothing of it, and still runs.
    expect(page.locator(".jp-NotebookPanel .jp-OutputArea-output")).to_have_text("going round\n")
    page.locator("[data-jp-item-name='interrupt'] button, [data-command='notebook:interrupt-kernel']").first.click()
    expect(page.locator(".jp-NotebookPanel .jp-OutputArea-output", has_text="KeyboardInterrupt")).to_be_visible(
        timeout=60_000
    )


def switch_debugger_on(page: Page) -> None:
    """JupyterLab asks the kernel for its debugger's state several times while a notebook opens. An answer that comes late
    undoes a click: the panel is there, without the notebook's name, and gutter and button wait for another click."""
    button = page.locator("[data-jp-item-name='debugger-icon'] button, .jp-DebuggerBugButton").first
    name = page.get_by_role("region", name="Debugger section").get_by_role("heading", level=2)
    for _ in range(5):
        button.click()
        try:
            return expect(name).to_have_text("debugger.ipynb", timeout=10_000)
        except AssertionError:
            continue
    expect(name).to_have_text("debugger.ipynb", timeout=1_000)


def set_breakpoint(page: Page) -> None:
    """On the third line. A click that comes before JupyterLab has drawn the gutter anew goes nowhere."""
    shown = page.locator(".jp-DebuggerBreakpoint").first
    for _ in range(4):
        # The first element of the gutter is never seen: it keeps the gutter's width.
        page.locator(".jp-Cell .cm-breakpoint-gutter .cm-gutterElement").nth(3).click()
        try:
            return expect(shown).to_be_visible(timeout=10_000)
        except AssertionError:
            continue
    expect(shown).to_be_visible(timeout=1_000)


@pytest.mark.skipif(not HAS_DEBUGGER, reason="lldb-dap is missing: apt-get install lldb-19")
@pytest.mark.parametrize("page", ["debugger"], indirect=True)
def test_the_debugger_in_jupyterlab(page: Page) -> None:
    expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
    wait_for_idle(page, 120)
    switch_debugger_on(page)
    set_breakpoint(page)
    page.locator(".jp-Cell .cm-line").first.click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".jp-DebuggerCallstackFrame").first).to_be_visible(timeout=60_000)
    expect(page.locator(".jp-DebuggerVariables", has_text="sides")).to_be_visible(timeout=30_000)
    page.screenshot(path=ARTIFACTS / "lab-debugger.png")
    highlighted = page.locator(".cm-line.jp-DebuggerEditor-highlight").last
    before = highlighted.inner_text()
    page.locator(".jp-DebuggerCallstack [data-command='debugger:next'], [data-command='debugger:next']").first.click()
    expect(highlighted).not_to_have_text(before, timeout=30_000)
    page.locator("[data-command='debugger:continue']").first.click()
    expect_output(page, r"^\s*7(\.0)?\s*$", 60)
    page.screenshot(path=ARTIFACTS / "lab-debugged.png")
