"""The settings page in Chromium without script, and the tokens that are made there in the hands of stock programs."""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support import ROOT, Stack, run_alephlab, stop_stack, up
from test_lab import LAB_TOKEN, jupyterlab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`alephlab up` of its own: what is made here is counted."""
    folder = tmp_path_factory.mktemp("settings")
    running = up(folder / "data", folder / "up.log")
    yield running
    stop_stack(running)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


def settings(browser: Browser, stack: Stack, **options) -> Page:
    """The page in a browser of its own, after signing in."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, **options).new_page()
    page.goto(f"{stack.gateway_url}/settings")
    page.get_by_label("Access token").fill(stack.token)
    page.get_by_role("button", name="Sign in with token").click()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    return page


def make(page: Page, name: str, scope: str) -> str:
    """Fills the form in; the token that the page shows."""
    page.get_by_label("Name").fill(name)
    page.get_by_role("radio", name=re.compile(rf"^{scope}\b")).check()
    page.get_by_role("button", name="Make token").click()
    return page.locator("#new-token").inner_text()


def ask(url: str, body: dict | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_token_of_the_page_serves_jupyterlab_and_is_revoked_without_script(
    stack: Stack, browser: Browser, tmp_path: Path
) -> None:
    page = settings(browser, stack, java_script_enabled=False)
    expect(page.get_by_text("You have no access token.")).to_be_visible()
    run, read = make(page, "lab", "run"), make(page, "look", "read")
    page.reload()
    assert run not in page.content() and read not in page.content()
    listed = run_alephlab("token", "list", "--json", "--data", stack.data)
    assert {token["name"]: token["scope"] for token in json.loads(listed.stdout)} == {"lab": "run", "look": "read"}
    for token, name, may_start in ((read, "read", False), (run, "run", True)):
        folder = tmp_path / name
        folder.mkdir()
        options = (f"--gateway-url={stack.gateway_url}", f"--GatewayClient.auth_token={token}")
        with jupyterlab(folder, *options) as lab:
            status, specs = ask(f"{lab}/api/kernelspecs?token={LAB_TOKEN}")
            assert status == 200 and "Rust (Alephlab)" in specs
            status, answer = ask(f"{lab}/api/kernels?token={LAB_TOKEN}", {"name": "alephlab"})
            assert (status == 201) == may_start, answer
    page.goto(f"{stack.gateway_url}/settings")
    page.get_by_role("row", name="lab").get_by_role("link", name="Revoke").click()
    expect(page.get_by_role("heading", name="Revoke lab?")).to_be_visible()
    page.get_by_role("button", name="Revoke token").click()
    expect(page.get_by_text("The token is revoked.")).to_be_visible()
    assert ask(f"{stack.gateway_url}/api/kernels?token={run}")[0] == 401
    assert ask(f"{stack.gateway_url}/api/kernels?token={read}")[0] == 200


def test_the_command_makes_and_revokes_a_token_and_the_log_holds(stack: Stack) -> None:
    where = ("--data", stack.data)
    made = run_alephlab("token", "create", "by command", "--scope", "read", "--expires", "7d", *where)
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert token.startswith("alab_") and token not in made.stderr
    assert ask(f"{stack.gateway_url}/v1/balance?token={token}")[0] == 200
    assert ask(f"{stack.gateway_url}/v1/tokens?token={token}")[0] == 403
    revoked = run_alephlab("token", "revoke", "by command", *where)
    assert revoked.returncode == 0, revoked.stderr
    assert ask(f"{stack.gateway_url}/v1/balance?token={token}")[0] == 401
    verified = run_alephlab("audit", "verify", *where)
    assert verified.returncode == 0, verified.stderr
    last = verified.stdout.split()[-1]
    assert run_alephlab("audit", "verify", "--since", last, *where).returncode == 0
    missing = run_alephlab("audit", "verify", "--since", "ab" * 32, *where)
    assert missing.returncode != 0 and "missing" in missing.stderr


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_keeps_the_theme(stack: Stack, browser: Browser, width: int, theme: str) -> None:
    page = settings(browser, stack)
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_role("radio", name=theme.capitalize()).check()
    page.get_by_role("button", name="Save theme").click()
    assert page.locator("html").get_attribute("data-theme") == theme
    make(page, f"{theme} on a screen of {width} pixels", "admin")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"settings-{width}-{theme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="Revoke").first.click()
    page.screenshot(path=ARTIFACTS / f"settings-revoke-{width}-{theme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
