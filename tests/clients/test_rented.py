"""Kernels on hosts that are rented on the local Aleph network: sandboxes of this machine, had through the real protocol."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from channels import Page, ask, lines, result
from support import Stack, run_alephlab, stop_stack, up, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SPEC = "alephlab-rtx-4090"
ARTIFACTS = os.environ.get("ALEPHLAB_ARTIFACTS", "target/test-artifacts")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """`alephlab up` on a network with two cards, and an operator with five dollars."""
    folder = tmp_path_factory.mktemp("rented")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEPHLAB__HOSTS__ALEPH", "true")
        patch.setenv("ALEPHLAB__HOSTS__LOCAL", "RTX 4090, H100")
        running = up(folder / "data", folder / "up.log")
        try:
            command(running, "wallet", "credit", "owner", "5000000")
            yield running
        finally:
            stop_stack(running)
    assert not machines(running), "a host outlives its network"


def command(stack: Stack, *arguments: str) -> str:
    done = run_alephlab(*arguments, "--data", stack.data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def machines(stack: Stack) -> list[psutil.Process]:
    """First programs of hosts of this stack."""
    found = psutil.process_iter(["cmdline"])
    lines = [(one, one.info["cmdline"] or []) for one in found]
    return [one for one, line in lines if "/init" in line and str(stack.data) in " ".join(line)]


def stage(stack: Stack, kernel: str) -> str:
    (one,) = [one for one in ask(stack, "/v1/allocations")["allocations"] if one["id"] == kernel]
    return one["stage"]


def loads(stack: Stack) -> dict[str, tuple[dict, dict]]:
    """Hosts and loads of kernels."""
    hosts = ask(stack, "/v1/load")["hosts"]
    return {kernel: (host, load) for host in hosts for kernel, load in host["kernels"].items()}


def delete(stack: Stack, path: str) -> None:
    headers = {"Authorization": f"token {stack.token}"}
    request = urllib.request.Request(stack.gateway_url + path, headers=headers, method="DELETE")
    urllib.request.urlopen(request, timeout=60).close()


def on_the_network(stack: Stack, kind: str) -> list[dict]:
    with urllib.request.urlopen(f"{stack.aleph_url}/api/v0/messages.json?msgTypes={kind}", timeout=30) as answer:
        return json.load(answer)["messages"]


def test_a_kernel_is_rented_by_its_kernelspec_and_given_back(stack: Stack):
    specs = ask(stack, "/api/kernelspecs")["kernelspecs"]
    assert specs[SPEC]["spec"]["display_name"] == "Rust · RTX 4090 · 0.26 USD/h · host can read memory"
    kernel = ask(stack, "/api/kernels", {"name": SPEC, "env": {"KERNEL_MAX_COST": "500000"}})["id"]
    page = Page(stack, kernel, "page")
    heard = page.hear(page.run("let x = 41; x + 1"), "execute_result")
    assert result(heard) == "42"
    said = heard[0]["content"].get("text", "")
    assert "runs as soon as RTX 4090 is there; nothing is charged until then" in said
    assert stage(stack, kernel) == "running"
    # It is another machine: another name, and none of this one's files.
    looks = f"""(std::fs::read_to_string("/proc/sys/kernel/hostname")?.starts_with("vm-"), std::path::Path::new({json.dumps(str(stack.data / "gateway"))}).exists())"""
    assert result(page.hear(page.run(looks), "execute_result")) == "(true, false)"
    # What it takes of its host, and how busy that is; the sandbox pretends the card, so no driver tells of it.
    wait_until(lambda: kernel in loads(stack), 30, "the first measurement of the kernel")
    host, load = loads(stack)[kernel]
    assert host["name"].startswith("vm-") and host["load"]["memory"] > load["memory"] > 5_000_000
    # So that there is something to pay.
    page.hear(page.run("std::thread::sleep(std::time::Duration::from_millis(1200));"), "execute_reply")
    # What the network knows of it is public, and opens nothing.
    (message,) = on_the_network(stack, "INSTANCE")
    text = json.dumps(message)
    assert "ssh-ed25519" in text and message["content"]["payment"]["type"] == "credit"
    assert stack.token not in text and "lease" not in text
    said = command(stack, "host", "raise-cap", kernel, "600000", "--yes")
    assert "a cap of 0.60 USD sets 0.10 USD more aside" in said and f"kernel {kernel} has a cap of 0.60 USD" in said
    delete(stack, f"/api/kernels/{kernel}")
    wait_until(lambda: stage(stack, kernel) == "ended", 60, "the host's end")
    wait_until(lambda: not machines(stack), 30, "the end of the machine")
    assert not on_the_network(stack, "INSTANCE"), "the bill has stopped"
    assert "on RTX 4090" in command(stack, "receipt", "list")


def busy_on_a_host(stack: Stack) -> tuple[str, Page, str, psutil.Process]:
    """A kernel on a rented host that runs a long cell: its id, a page, the cell, and the host's first process."""
    kernel = ask(stack, "/api/kernels", {"name": SPEC, "env": {"KERNEL_MAX_COST": "500000"}})["id"]
    page = Page(stack, kernel, "page")
    cell = page.run('println!("begun"); std::thread::sleep(std::time::Duration::from_secs(3600));')
    while "begun" not in "".join(lines(page.hear(cell, "stream"))):
        pass
    # The sandbox's own process is the parent of the host's.
    all_of_it = machines(stack)
    (machine,) = [one for one in all_of_it if one.parent() not in all_of_it]
    return kernel, page, cell, machine


@pytest.mark.parametrize("what", ["agent", "host"])
def test_a_host_that_falls_silent_is_told_under_the_cell_and_can_be_given_back(stack: Stack, what: str):
    kernel, page, cell, machine = busy_on_a_host(stack)
    children = machine.children(recursive=True)
    (agent,) = [one for one in children if "alephlab-agent" in one.cmdline()[0] and "--bootstrap" in one.cmdline()]
    (agent if what == "agent" else machine).kill()
    said = ""
    while "does not answer" not in said:
        (stream,) = page.hear(cell, "stream")[-1:]
        said = stream["content"]["text"]
    assert "Nothing is charged meanwhile; after 10 minutes the kernel counts as lost" in said
    assert ask(stack, f"/api/kernels/{kernel}")["execution_state"] == "busy"
    delete(stack, f"/api/kernels/{kernel}")
    wait_until(lambda: stage(stack, kernel) == "ended", 60, "the end of what was rented")
    wait_until(lambda: not machines(stack), 30, "the end of the machine")
    assert not on_the_network(stack, "INSTANCE"), "the bill has stopped"


def test_a_price_is_asked_for_in_a_shell(stack: Stack):
    offers = command(stack, "host", "offers")
    h100 = next(line for line in offers.splitlines() if line.startswith("H100"))
    assert "2.07 USD/h" in h100 and "Host can read memory" in h100
    refused = run_alephlab("host", "rent", h100.split()[-1], "--cap", "9000000", "--yes", "--data", stack.data)
    assert refused.returncode != 0
    assert "9000000 credits would be set aside" in refused.stderr
    assert command(stack, "host", "account").startswith("0x")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")
def test_hardware_is_picked_on_the_page_with_its_price(stack: Stack):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{stack.gateway_url}/?token={stack.token}")
        page.get_by_role("link", name="Kernels").click()
        page.get_by_role("link", name="Start a kernel").click()
        page.get_by_label("H100").check()
        page.get_by_label("Stop at").fill("1.00")
        # What was not quoted is not started: the page shows the quote for it first.
        page.get_by_role("button", name="Start, at most").click()
        expect(page.get_by_role("alert")).to_contain_text("This is the quote for it")
        page.get_by_role("button", name="Start, at most 1.00 USD").click()
        expect(page.get_by_text("The kernel is starting")).to_be_visible()
        wait_until(lambda: ready(page), 120, "the kernel on the page")
        row = page.locator("li.kernel").first
        expect(row).to_contain_text("H100")
        expect(row).to_contain_text("Host can read memory")
        expect(row).to_contain_text("of 1.00")
        # Nobody reloads it: figures come by themselves.
        expect(row.locator(".load")).to_contain_text("Memory", timeout=30_000)
        expect(page.get_by_role("heading", name="Hosts")).to_be_visible()
        Path(ARTIFACTS).mkdir(parents=True, exist_ok=True)
        for name, width in [("wide", 1280), ("phone", 390)]:
            page.set_viewport_size({"width": width, "height": 900})
            fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert fits, f"{name}: the page is wider than its window"
            page.screenshot(path=Path(ARTIFACTS) / f"kernels-{name}.png", full_page=True)
        row.get_by_role("link", name="Raise the cap").click()
        page.get_by_label("New cap").fill("1.50")
        page.get_by_role("button", name="Show what that sets aside").click()
        expect(page.get_by_text("0.50 USD", exact=True)).to_be_visible()
        fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert fits, "the page is wider than a phone"
        page.screenshot(path=Path(ARTIFACTS) / "kernel-cap-phone.png", full_page=True)
        page.get_by_role("button", name="Raise it to 1.50 USD").click()
        expect(page.get_by_text("The cap is raised")).to_be_visible()
        expect(row).to_contain_text("of 1.50")
        row.get_by_role("link", name="Stop").click()
        expect(page.get_by_text("Its variables are lost")).to_be_visible()
        page.get_by_role("button", name="Stop the kernel").click()
        expect(page.get_by_text("its host is given back")).to_be_visible()
        browser.close()
    wait_until(lambda: not machines(stack), 60, "the end of the machine")


def ready(page) -> bool:
    page.reload()
    return page.locator("li.kernel .state.idle").count() == 1
