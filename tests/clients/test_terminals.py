"""Terminals as JupyterLab's page uses them, by hand: the Jupyter Server API and the WebSocket that talks in JSON arrays."""

import json
import signal
import urllib.request
from pathlib import Path

import pytest
import websocket

from support import Stack, stop_stack, up


def ask(stack: Stack, path: str, method: str = "GET", body: dict | None = None):
    """One call of the Jupyter Server API; what is not JSON is none."""
    request = urllib.request.Request(
        stack.gateway_url + path, data=None if body is None else json.dumps(body).encode(), method=method,
        headers={"Authorization": f"token {stack.token}"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
        return answer.status, json.loads(text) if text else None


class Terminal:
    """A page that shows a terminal."""

    def __init__(self, stack: Stack, name: str) -> None:
        url = f"{stack.gateway_url.replace('http', 'ws')}/terminals/websocket/{name}"
        self.socket = websocket.create_connection(url, header=[f"Authorization: token {stack.token}"], timeout=60)
        self.shown = ""
        assert json.loads(self.socket.recv()) == ["setup", {}]

    def type(self, text: str) -> None:
        self.socket.send(json.dumps(["stdin", text]))

    def until(self, wanted: str) -> str:
        while wanted not in self.shown:
            kind, text = json.loads(self.socket.recv())
            assert kind == "stdout", kind
            self.shown += text
        before, _, self.shown = self.shown.partition(wanted)
        return before


@pytest.fixture
def stack(tmp_path: Path):
    stack = up(tmp_path / "data", tmp_path / "up.log")
    yield stack
    stop_stack(stack)


def test_a_terminal_keeps_shell_and_screen_when_the_gateway_is_killed(stack: Stack, tmp_path: Path):
    assert ask(stack, "/api/terminals") == (200, [])
    status, model = ask(stack, "/api/terminals", "POST", {})
    assert status == 200 and model["name"] == "1" and model["last_activity"].endswith("Z")
    terminal = Terminal(stack, "1")
    terminal.type("PS1='> '; kept=variable; echo be''fore; env\r")
    terminal.until("before\r\n")
    terminal.type("echo af''ter\r")
    # Of what the gateway was started with, a shell has nothing that is ours.
    environment = terminal.until("after\r\n")
    assert "TERM=xterm-256color" in environment and "ALEPHLAB" not in environment
    terminal.socket.send(json.dumps(["set_size", 31, 101, 0, 0]))
    terminal.type("stty size\r")
    terminal.until("31 101\r\n")
    stack.process.send_signal(signal.SIGKILL)
    stack.process.wait(30)
    again = up(stack.data, tmp_path / "up.log")
    stack.process, stack.result = again.process, again.result
    assert [one["name"] for one in ask(stack, "/api/terminals")[1]] == ["1"]
    terminal = Terminal(stack, "1")
    terminal.until("31 101\r\n")
    terminal.type("echo $kept\r")
    terminal.until("variable\r\n")
    terminal.type("exit\r")
    while (message := json.loads(terminal.socket.recv()))[0] == "stdout":
        pass
    assert message == ["disconnect", 1]
    assert ask(stack, "/api/terminals") == (200, [])
    ask(stack, "/api/terminals", "POST", {"name": "mine"})
    assert ask(stack, "/api/terminals/mine", "DELETE") == (204, None)
