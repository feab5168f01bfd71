"""What the Jupyter extension of VS Code does, over HTTP and over ZeroMQ. VS Code itself is not run."""

import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from support import ROOT, Stack

HERE = Path(__file__).parent / "vscode"
MODULES = ROOT / "target" / "vscode-client"
DEADLINE = 120


@pytest.fixture(scope="module")
def services() -> Path:
    """The Node client with its packages, installed once."""
    MODULES.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    if not (MODULES / "done").exists() or (MODULES / "done").read_text() != wanted:
        shutil.copy(HERE / "package.json", MODULES)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=MODULES, check=True, timeout=300)
        (MODULES / "done").write_text(wanted)
    shutil.copy(HERE / "client.mjs", MODULES)
    return MODULES / "client.mjs"


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing: apt-get install npm")
def test_over_http_through_jupyterlab_services(services: Path, stack: Stack) -> None:
    command = ["node", services, stack.gateway_url, stack.token, "alephlab"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["value"]["outputs"][0]["data"]["text/plain"] == "41"
    assert (seen["panic"]["status"], seen["panic"]["name"]) == ("error", "Panic")
    # `stop_on_error: false`: the cell behind the failing one runs.
    assert seen["after"]["status"] == "ok"
    assert [one.get("text", one.get("data", {}).get("text/plain")) for one in seen["after"]["outputs"]] == ["text\n", "42"]
    assert (seen["error"]["status"], seen["error"]["name"]) == ("error", "CompileError")
    assert "kept" in seen["matches"] and seen["types"] >= len(seen["matches"])
    assert (seen["interrupted"]["name"], seen["kept"]["status"]) == ("KeyboardInterrupt", "ok")
    assert seen["restarted"]["name"] == "CompileError", "variables are gone after a restart"
    sessions = [kind for path, kind in seen["posted"] if path.endswith("/api/sessions")]
    assert sessions and all("text/plain" in kind for kind in sessions), seen["posted"]


@pytest.mark.usefixtures("installed_kernel")
def test_over_zeromq_every_kernel_info_is_answered_also_while_a_cell_runs() -> None:
    manager = KernelManager(kernel_name="alephlab")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        asked = {}
        # Both channels each half second until the first answer, as the extension does while a kernel starts.
        pause = threading.Event()
        while not any(answered(client, asked)):
            for channel in (client.shell_channel, client.control_channel):
                message = client.session.msg("kernel_info_request", {})
                channel.send(message)
                asked[message["header"]["msg_id"]] = False
            pause.wait(0.5)
            assert len(asked) < 240
        content = {"code": "loop { check_interrupt(); }", "silent": False, "store_history": True,
                   "user_expressions": {}, "allow_stdin": True, "stop_on_error": False}  # fmt: skip
        cell = client.session.msg("execute_request", content, metadata={"cellId": "vscode-notebook-cell:/x#W0"})
        client.shell_channel.send(cell)
        wait_for_input(client)
        for channel in (client.shell_channel, client.control_channel):
            message = client.session.msg("kernel_info_request", {})
            channel.send(message)
            asked[message["header"]["msg_id"]] = False
        while not all(answered(client, asked)):
            pause.wait(0.05)
        manager.interrupt_kernel()
        while True:
            reply = client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"]["msg_id"] == cell["header"]["msg_id"]:
                break
        assert reply["content"]["ename"] == "KeyboardInterrupt"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def answered(client, asked: dict[str, bool]):
    """Takes the replies that have come; which requests are answered."""
    for get in (client.get_shell_msg, client.get_control_msg):
        try:
            while True:
                reply = get(timeout=0.01)
                if reply["msg_type"] == "kernel_info_reply":
                    asked[reply["parent_header"]["msg_id"]] = True
        except queue.Empty:
            pass
    return asked.values()


def wait_for_input(client) -> None:
    while client.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "execute_input":
        pass
