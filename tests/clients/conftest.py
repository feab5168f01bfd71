"""Fixtures shared by the client tests. The stack is started once: quickstart does its whole job first."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

from chain import Chain, Deployed, deployed
from support import CHROMIUM, Stack, run_alephlab, start_stack, stop_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory):
    """`alephlab quickstart`, done with its job and serving."""
    folder = tmp_path_factory.mktemp("stack")
    running = start_stack(folder / "data", folder / "quickstart.log")
    yield running
    stop_stack(running)


@pytest.fixture(scope="session")
def installed_kernel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kernelspec's name, installed into a folder that Jupyter clients of this process search."""
    prefix = tmp_path_factory.mktemp("prefix")
    done = run_alephlab("kernel", "install", "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    os.environ["JUPYTER_PATH"] = str(Path(prefix) / "share" / "jupyter")
    return "alephlab"


@pytest.fixture(scope="session")
def kernel_for_stack(stack: Stack, installed_kernel: str) -> str:
    """A kernelspec whose kernels find the running stack's data folder."""
    os.environ["ALEPHLAB__DATA__DIR"] = str(stack.data)
    yield installed_kernel
    del os.environ["ALEPHLAB__DATA__DIR"]


@pytest.fixture
def folder(tmp_path: Path):
    """A folder for data; whatever still runs on it is ended."""
    yield tmp_path
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in part for part in process.info["cmdline"] or []):
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    running = Chain()
    yield running
    running.stop()


@pytest.fixture
def payer(chain: Chain) -> Deployed:
    return deployed(chain)
