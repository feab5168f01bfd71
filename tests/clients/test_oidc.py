"""Signing in at an OpenID provider by others, in Chromium: to the page asked for, cells, an address, and two accounts apart."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from playwright.sync_api import Browser, BrowserContext, Page, expect

import channels
from support import CHROMIUM, ROOT, Stack, installed, run_alephlab, stop_stack, up

HERE = Path(__file__).parent / "oidc"
MODULES = ROOT / "target" / "oidc-provider"
ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
SECRET = "not a secret: of this test only"
ADA = Account.from_key("0x" + "a1" * 32)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing: apt-get install npm"),
]


@dataclass
class Provider:
    """The provider's process, which waits for the address that its client comes back to."""

    issuer: str
    process: subprocess.Popen

    def serve(self, back: str) -> None:
        self.process.stdin.write(f"{back}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.strip() == "serves":
                break
        # Read to its end: a program whose words nobody reads stops when the pipe is full.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    process = subprocess.Popen(
        ["node", "provider.mjs"], cwd=installed(HERE, MODULES), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "CLIENT_SECRET": SECRET},
    )  # fmt: skip
    yield Provider(process.stdout.readline().strip(), process)
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def stack(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`alephlab up` with the provider as its second door; whoever comes is admitted by the operator."""
    folder = tmp_path_factory.mktemp("oidc")
    secret = folder / "client.secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    settings = {
        "ISSUER": provider.issuer, "CLIENT_ID": "alephlab", "CLIENT_SECRET_FILE": secret, "NAME": "the office",
    }  # fmt: skip
    names = {f"ALEPHLAB__OIDC__{key}": str(value) for key, value in settings.items()}
    os.environ.update(names)
    try:
        running = up(folder / "data", folder / "up.log")
    finally:
        for name in names:
            del os.environ[name]
    provider.serve(f"{running.gateway_url}/sign-in/oidc/back")
    yield running
    stop_stack(running)


def at_provider(page: Page, name: str) -> None:
    """The provider's own pages: who it is, and that the gateway may know it."""
    page.get_by_placeholder("Enter any login").fill(name)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def accounts(stack: Stack) -> dict[str, dict]:
    listed = run_alephlab("account", "list", "--json", "--data", stack.data)
    assert listed.returncode == 0, listed.stderr
    return {one["label"]: one for one in json.loads(listed.stdout)}


def signed_in(stack: Stack, browser: Browser, name: str, **options) -> Page:
    """A page of a browser of its own, signed in at the provider and admitted."""
    label = f"{name} of the office"
    page = browser.new_context(viewport={"width": 1440, "height": 900}, **options).new_page()
    page.goto(f"{stack.gateway_url}/kernels")
    page.get_by_role("link", name="Continue with the office").click()
    at_provider(page, name)
    if page.get_by_text("Your account waits.").count():
        account = accounts(stack)[label]["account"]
        expect(page.get_by_text(account)).to_be_visible()
        admitted = run_alephlab("account", "admit", account, "--data", stack.data)
        assert admitted.returncode == 0, admitted.stderr
        # The provider knows this browser by now.
        page.get_by_role("link", name="Continue with the office").click()
    page.wait_for_url(f"{stack.gateway_url}/kernels")
    expect(page.get_by_role("heading", name="Kernels")).to_be_visible()
    return page


def token_of(page: Page, stack: Stack, scope: str) -> str:
    page.goto(f"{stack.gateway_url}/settings")
    page.get_by_label("Name").fill(f"{scope} token")
    page.get_by_role("radio", name=re.compile(rf"^{scope}\b")).check()
    page.get_by_role("button", name="Make token").click()
    return page.locator("#new-token").inner_text()


@dataclass
class As:
    """The stack as an account with this token reaches it."""

    gateway_url: str
    token: str


def test_an_account_of_the_provider_runs_a_cell_and_another_one_sees_nothing_of_it(
    stack: Stack, browser: Browser
) -> None:
    ada = signed_in(stack, browser, "ada", java_script_enabled=False)
    program = As(stack.gateway_url, token_of(ada, stack, "run"))
    kernel = channels.ask(program, "/api/kernels", {"name": "alephlab"})["id"]
    session = channels.Page(program, kernel, "of-ada")
    assert channels.result(session.hear(session.run("let secret_of_ada = 41; secret_of_ada + 1"), "execute_reply")) == "42"
    expect_in(ada, f"{stack.gateway_url}/kernels", kernel[:8], True)
    bob = signed_in(stack, browser, "bob")
    other = As(stack.gateway_url, token_of(bob, stack, "run"))
    assert channels.ask(other, "/api/kernels") == []
    expect_in(bob, f"{stack.gateway_url}/kernels", kernel[:8], False)
    answer = bob.request.get(f"{stack.gateway_url}/api/kernels/{kernel}")
    assert answer.status == 404
    assert bob.request.get(f"{stack.gateway_url}/v1/audit").status == 403
    assert bob.request.get(f"{stack.gateway_url}/v1/accounts").status == 403
    expect_in(ada, f"{stack.gateway_url}/settings", "ada of the office", True)
    ada.get_by_role("button", name="Sign out", exact=True).click()
    expect(ada.get_by_role("heading", name="Sign in to this gateway")).to_be_visible()
    expect_in(ada, f"{stack.gateway_url}/kernels", "Sign in to this gateway", True)
    ada.context.close()
    bob.context.close()


def expect_in(page: Page, url: str, text: str, shown: bool) -> None:
    page.goto(url)
    assert (text in page.content()) == shown, text


WALLET = """window.ethereum = {
  request: async ({ method, params }) => {
    if (method === "eth_requestAccounts") return [ADDRESS];
    if (method === "personal_sign") return await window.signText(params[0], params[1]);
    throw new Error("this wallet does not know " + method);
  },
};"""


def sign(text: str) -> str:
    return "0x" + ADA.sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x")


def with_wallet(context: BrowserContext, page: Page, asked: list[str]) -> None:
    page.expose_function("signText", lambda text, _: asked.append(text) or sign(text))
    page.add_init_script(WALLET.replace("ADDRESS", json.dumps(ADA.address)))


def test_an_address_is_linked_in_the_settings_and_signs_in_to_the_same_account(stack: Stack, browser: Browser) -> None:
    asked: list[str] = []
    page = signed_in(stack, browser, "ada")
    with_wallet(page.context, page, asked)
    page.goto(f"{stack.gateway_url}/settings")
    account = accounts(stack)["ada of the office"]["account"]
    page.get_by_role("button", name="Link with wallet").click()
    expect(page.get_by_text("The address is linked.")).to_be_visible()
    assert len(asked) == 1 and account in asked[0] and "for good" in asked[0]
    expect(page.get_by_text(ADA.address)).to_be_visible()
    expect(page.get_by_role("button", name="Link with wallet")).to_have_count(0)
    page.context.close()
    other = browser.new_context().new_page()
    with_wallet(other.context, other, asked)
    other.goto(f"{stack.gateway_url}/settings")
    other.get_by_role("button", name="Sign in with wallet").click()
    expect(other.get_by_text(account)).to_be_visible()
    expect(other.get_by_text("ada of the office")).to_be_visible()
    other.context.close()
    # Without script, and an address that another account has.
    bob = signed_in(stack, browser, "bob", java_script_enabled=False)
    bob.goto(f"{stack.gateway_url}/settings")
    bob.get_by_text("Sign a text elsewhere").click()
    bob.get_by_label("Your address").fill(ADA.address)
    bob.get_by_role("button", name="Show the text to sign").click()
    bob.get_by_label("Signature").fill(sign(bob.locator("#to-sign").inner_text()))
    bob.get_by_role("button", name="Link this address").click()
    expect(bob.get_by_text("This address has an account of its own here")).to_be_visible()
    bob.context.close()


def test_who_says_no_at_the_provider_is_brought_back_with_a_sentence(stack: Stack, browser: Browser) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{stack.gateway_url}/settings")
    page.get_by_role("link", name="Continue with the office").click()
    page.get_by_role("link", name="[ Cancel ]").click()
    expect(page.get_by_text("The sign-in at the office was refused or ended there.")).to_be_visible()
    # To where it was going all the same.
    page.get_by_role("link", name="Continue with the office").click()
    at_provider(page, "ada")
    page.wait_for_url(f"{stack.gateway_url}/settings")
    page.context.close()


def test_a_role_is_given_by_the_command_and_on_the_page(stack: Stack, browser: Browser) -> None:
    bob = signed_in(stack, browser, "bob")
    account = accounts(stack)["bob of the office"]["account"]
    made = run_alephlab("account", "role", account, "operator", "--data", stack.data)
    assert made.returncode == 0 and "operator" in made.stdout, made.stderr
    bob.goto(f"{stack.gateway_url}/settings")
    bob.get_by_role("link", name="Accounts of this gateway").click()
    row = bob.get_by_role("row", name="ada of the office")
    row.get_by_role("button", name="Make operator").click()
    expect(bob.get_by_text("ada of the office has the role operator and is admitted.")).to_be_visible()
    row.get_by_role("button", name="Make a user").click()
    expect(bob.get_by_text("ada of the office has the role user and is admitted.")).to_be_visible()
    row.get_by_role("button", name="Shut out").click()
    expect(bob.get_by_text("ada of the office has the role user and is not admitted")).to_be_visible()
    row.get_by_role("button", name="Admit").click()
    assert accounts(stack)["ada of the office"]["admitted"]
    assert bob.request.get(f"{stack.gateway_url}/v1/audit").status == 200
    made = run_alephlab("account", "role", account, "user", "--data", stack.data)
    assert made.returncode == 0, made.stderr
    assert bob.request.get(f"{stack.gateway_url}/v1/audit").status == 403
    refused = run_alephlab("account", "role", account, "king", "--data", stack.data)
    assert refused.returncode != 0 and "operator or user" in refused.stderr
    bob.context.close()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_fit(stack: Stack, browser: Browser, width: int, theme: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    viewport = {"width": width, "height": 900}

    def picture(page: Page, name: str) -> None:
        page.screenshot(path=ARTIFACTS / f"oidc-{name}-{width}-{theme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    page = browser.new_context(viewport=viewport, color_scheme=theme).new_page()
    page.goto(f"{stack.gateway_url}/?next=/settings")
    picture(page, "sign-in")
    page.get_by_role("link", name="Continue with the office").click()
    at_provider(page, f"a-new-one-{width}-{theme}")
    picture(page, "waits")
    label = f"a-new-one-{width}-{theme} of the office"
    account = accounts(stack)[label]["account"]
    run_alephlab("account", "admit", account, "--data", stack.data)
    page.get_by_role("link", name="Continue with the office").click()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    picture(page, "settings")
    page.get_by_text("Sign a text elsewhere").click()
    page.get_by_label("Your address").fill("0x" + "b2" * 20)
    page.get_by_role("button", name="Show the text to sign").click()
    picture(page, "link")
    page.get_by_label("Signature").fill("0x12")
    page.get_by_role("button", name="Link this address").click()
    expect(page.get_by_text("No address was linked.")).to_be_visible()
    picture(page, "link-refused")
    run_alephlab("account", "role", account, "operator", "--data", stack.data)
    page.goto(f"{stack.gateway_url}/settings/accounts")
    picture(page, "accounts")
    run_alephlab("account", "role", account, "user", "--data", stack.data)
    page.context.close()
