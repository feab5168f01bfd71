"""Walls around kernels of the gateway, as a cell meets them: tried by cells, in an `alephlab up` as people start it."""

import json
import urllib.request
from pathlib import Path

import pytest

from channels import Page, ask, lines
from support import Stack, stop_stack, up


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walls")
    with pytest.MonkeyPatch.context() as patch:
        # So that a machine without bubblewrap fails here, and is not passed over.
        patch.setenv("ALEPHLAB__ISOLATION__SANDBOX", "bubblewrap")
        patch.setenv("A_SECRET_OF_THE_OPERATOR", "canary-of-the-environment")
        running = up(folder / "data", folder / "up.log")
        yield running
        stop_stack(running)


def shell(page: Page, command: str) -> str:
    """What a shell of a cell says, both ways."""
    quoted = json.dumps(command)
    code = f"""let out = std::process::Command::new("/bin/sh").arg("-c").arg({quoted}).output()?;
println!("{{}}{{}}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
out.status.code()"""
    return "\n".join(lines(page.hear(page.run(code), "execute_result")))


def test_a_cell_meets_nothing_of_the_gateway_and_of_other_accounts(stack: Stack):
    with urllib.request.urlopen(f"{stack.gateway_url}/health", timeout=30) as answer:
        walls = json.load(answer)["isolation"]
    assert walls.startswith("bubblewrap, "), walls
    request = urllib.request.Request(f"{stack.gateway_url}/kernels", headers={"Authorization": f"token {stack.token}"})
    other = stack.data / "work" / ("0x" + "ab" * 20)
    other.mkdir(parents=True)
    (other / "notebook.ipynb").write_text("canary-of-another-account")
    kernel = ask(stack, "/api/kernels", {})["id"]
    page = Page(stack, kernel, "page")
    said = shell(page, f"echo at $(pwd) $HOME; ls -a {stack.data} {stack.data}/work; cat {other}/notebook.ipynb; cat {stack.data}/run.json")
    (home,) = [one for one in (stack.data / "work").iterdir() if one != other]
    assert f"at {home} {home}" in said, said
    assert "canary" not in said and other.name not in said.replace(f"{other}/notebook.ipynb", ""), said
    assert "run.json: No such file" in said and "accounts" not in said and "gateway" not in said, said
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert f"Kept apart by {walls}" in answer.read().decode()
    said = shell(page, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert "alephlab-kernel" in said and "alephlab-agent\n" not in said and "canary" not in said, said
    # What people work with is there.
    said = shell(page, "cargo --version && ls ~/.. >/dev/null; touch ~/kept /tmp/alephlab-of-a-cell && nproc && getent hosts localhost")
    assert "cargo 1." in said and "No such" not in said, said
    assert (home / "kept").exists()
    assert not Path("/tmp/alephlab-of-a-cell").exists()


def test_a_restarted_kernel_and_a_terminal_have_the_same_walls(stack: Stack):
    kernel = ask(stack, "/api/kernels", {})["id"]
    assert "run.json: No such file" in shell(Page(stack, kernel, "a"), f"cat {stack.data}/run.json")
    ask(stack, f"/api/kernels/{kernel}/restart", {})
    assert "run.json: No such file" in shell(Page(stack, kernel, "b"), f"cat {stack.data}/run.json")
