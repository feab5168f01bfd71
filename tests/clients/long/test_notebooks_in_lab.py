"""The notebooks in JupyterLab as our page, in Chromium: each is run to its end in both themes' looks, and its pictures taken.

What a plot looks like a person has to judge: the pictures lie among the tests' artifacts, `lab-NOTEBOOK-THEME-NUMBER.png`. What is
checked here is that every cell ran, that no picture is cut off, and that no text in it is too small or too faint to be read.
"""

import json
import os
import re
import shutil
import sys
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support import ROOT, Stack, run_alephlab, stop_stack, up

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
NOTEBOOKS = ROOT / "notebooks"
MINUTES = 5
ERROR = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
THEME_SETTING = "/lab/api/settings/@jupyterlab/apputils-extension:themes"
THEMES = ["JupyterLab Light", "JupyterLab Dark"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")

# Of each picture in an output: whether it is wider than what it stands in, and texts that hardly differ from what is behind.
LOOK = """() => {
  const found = [];
  const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  for (const area of document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")) {
    const room = area.getBoundingClientRect();
    for (const picture of area.querySelectorAll("svg, img, table")) {
      const box = picture.getBoundingClientRect();
      if (box.width > room.width + 1) found.push(`a ${picture.tagName} of ${box.width} in ${room.width}`);
    }
    for (const svg of area.querySelectorAll("svg")) {
      const box = svg.getBoundingClientRect();
      for (const text of svg.querySelectorAll("text")) {
        const own = text.getBoundingClientRect();
        const what = `"${text.textContent.slice(0, 30)}"`;
        const style = getComputedStyle(text);
        if (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1)
          found.push(`${what} is cut off`);
        // Numbers in the cells of a matrix stand on their own colours.
        if (svg.querySelectorAll("rect").length > 20) continue;
        const [one, two] = [light(numbers(style.fill)), light(behind(svg))].sort((a, b) => b - a);
        if ((one + 0.05) / (two + 0.05) < 3) found.push(`${what} of ${style.fill} on ${behind(svg)} is faint`);
      }
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def page_files():
    """`alephlab lab install`, once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    installed = run_alephlab("lab", "install", timeout=600, env={**os.environ, "PATH": path})
    assert installed.returncode == 0, installed.stderr


@pytest.fixture(scope="module")
def lab(page_files: None, tmp_path_factory: pytest.TempPathFactory):
    """A gateway with the notebooks' data among the account's files."""
    folder = tmp_path_factory.mktemp("notebooks-in-lab")
    stack = up(folder / "data", folder / "up.log")
    for source in sorted((NOTEBOOKS / "data").rglob("*")):
        if source.is_file():
            put(stack, source.relative_to(NOTEBOOKS), "file", "text", source.read_text())
    yield stack
    stop_stack(stack)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def send(stack: Stack, path: str, body: dict) -> None:
    request = urllib.request.Request(
        stack.gateway_url + path, method="PUT", data=json.dumps(body).encode(),
        headers={"Authorization": f"token {stack.token}", "Content-Type": "application/json"},
    )  # fmt: skip
    urllib.request.urlopen(request, timeout=60).close()


def put(stack: Stack, path: Path, kind: str, form: str, content: object) -> None:
    """A file of the account's, with the folders that it lies in."""
    for parent in [one for one in reversed(path.parents) if one.name]:
        send(stack, f"/api/contents/{parent}", {"type": "directory"})
    send(stack, f"/api/contents/{path}", {"type": kind, "format": form, "content": content})


def run(page: Page, stack: Stack, name: str) -> None:
    """Opens a notebook, runs all of it and waits for the last cell."""
    page.goto(f"{stack.gateway_url}/lab/tree/{name}.ipynb?reset")
    ready = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator")
    expect(ready).to_have_attribute("data-status", "idle", timeout=90_000)
    # JupyterLab runs nothing before it has a session, whatever is pressed, though it may look so.
    begun = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputPrompt", has_text=re.compile(r"\d|\*"))
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            expect(begun.first).to_be_attached(timeout=10_000)
            break
        except AssertionError:
            page.screenshot(path=ARTIFACTS / f"lab-{name}-waits.png")
    # Every notebook ends with a line for programs.
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    over = panel.locator(".jp-OutputArea-output", has_text="ALEPHLAB_RESULT").or_(panel.locator(ERROR))
    expect(over.first).to_be_attached(timeout=MINUTES * 60_000)
    assert panel.locator(ERROR).all_inner_texts() == []
    expect(ready).to_have_attribute("data-status", "idle", timeout=30_000)


def saved_and_opened_in(page: Page, stack: Stack, name: str, theme: str) -> None:
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-DirListing-item.jp-mod-dirty")).to_have_count(0)
    expect(page.locator(".jp-mod-dirty")).to_have_count(0, timeout=30_000)
    send(stack, THEME_SETTING, {"raw": json.dumps({"theme": theme})})
    page.goto(f"{stack.gateway_url}/lab/tree/{name}.ipynb?reset")
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output").first).to_be_attached(timeout=90_000)
    page.wait_for_load_state("networkidle")


def pictures(page: Page, prefix: str) -> int:
    """Takes a picture of each output that is more than text."""
    areas = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output:has(svg, img, canvas, table)")
    for number in range(areas.count()):
        areas.nth(number).scroll_into_view_if_needed()
        areas.nth(number).screenshot(path=ARTIFACTS / f"{prefix}-{number}.png")
    return areas.count()


@pytest.mark.parametrize("name", ["digits_cnn", "penguins", "small_gpt", "fine_tune", "quickstart"])
def test_a_notebook_looks_well_in_both_themes(request, page_files: None, browser: Browser, name: str):
    # The first one mounts the dataset of a quickstart.
    lab: Stack = request.getfixturevalue("stack" if name == "quickstart" else "lab")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    put(lab, Path(f"{name}.ipynb"), "notebook", "json", json.loads((NOTEBOOKS / f"{name}.ipynb").read_text()))
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(f"{lab.gateway_url}/?token={lab.token}")
    try:
        run(page, lab, name)
        assert page.locator(ERROR).all_inner_texts() == []
        faults = {}
        shown = {}
        for theme in THEMES:
            short = theme.split()[-1].lower()
            if shown:
                # Opened again: what was run and saved is shown whole.
                saved_and_opened_in(page, lab, name, theme)
            expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme, timeout=60_000)
            shown[short] = pictures(page, f"lab-{name}-{short}")
            if found := page.evaluate(LOOK):
                faults[short] = found
        assert faults == {} and shown["light"] == shown["dark"] > 0, (faults, shown)
    finally:
        send(lab, THEME_SETTING, {"raw": "{}"})
        page.screenshot(path=ARTIFACTS / f"lab-{name}-last.png")
        context.close()
