"""The debugger over the control channel, with the requests that JupyterLab sends, in its order."""

import contextlib
import os
import queue
import signal
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from support import HAS_DEBUGGER

DEADLINE = 120

pytestmark = [
    pytest.mark.skipif(not HAS_DEBUGGER, reason="lldb-dap is missing: apt-get install lldb-19"),
    pytest.mark.usefixtures("installed_kernel"),
]

FUNCTION = "fn area(width: f64, height: f64) -> f64 {\n    let product = width * height;\n    product\n}"
CELL = "let sides = vec![2.0, 3.0];\nlet mut total = area(sides[0], sides[1]);\ntotal += 1.0;\ntotal"


class Debugger:
    """A kernel and what a debugging client asks it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="alephlab")
        self.number = 0

    def ask(self, command: str, arguments: dict | None = None) -> dict:
        """The body of the response; a refusal fails the test."""
        self.number += 1
        content = {"type": "request", "seq": self.number, "command": command, "arguments": arguments or {}}
        message = self.client.session.msg("debug_request", content)
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=DEADLINE)
            if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                assert reply["content"]["success"], reply["content"]
                return reply["content"]["body"]

    def event(self, name: str) -> dict:
        """The next event of this name."""
        while True:
            message = self.client.get_iopub_msg(timeout=DEADLINE)
            if message["msg_type"] == "debug_event" and message["content"]["event"] == name:
                return message["content"]

    def events_so_far(self) -> list[str]:
        """Names of the events that have come."""
        names = []
        try:
            while True:
                message = self.client.get_iopub_msg(timeout=0.5)
                if message["msg_type"] == "debug_event":
                    names.append(message["content"]["event"])
        except queue.Empty:
            return names

    def start(self) -> None:
        assert not self.ask("debugInfo")["isStarted"]
        self.ask("initialize", {"clientID": "test", "adapterID": "", "pathFormat": "path"})
        self.ask("attach")
        assert self.ask("debugInfo")["isStarted"]

    def break_at(self, code: str, *lines: int) -> str:
        path = self.ask("dumpCell", {"code": code})["sourcePath"]
        wanted = [{"line": line} for line in lines]
        placed = self.ask("setBreakpoints", {"source": {"path": path}, "breakpoints": wanted})
        assert [one["line"] for one in placed["breakpoints"]] == list(lines)
        self.ask("configurationDone")
        return path

    def stopped(self) -> tuple[int, list[dict]]:
        thread = self.event("stopped")["body"]["threadId"]
        return thread, self.ask("stackTrace", {"threadId": thread})["stackFrames"]

    def variables(self, frame: dict) -> dict[str, str]:
        found = {}
        for scope in self.ask("scopes", {"frameId": frame["id"]})["scopes"]:
            reference = {"variablesReference": scope["variablesReference"]}
            found |= {one["name"]: one["value"] for one in self.ask("variables", reference)["variables"]}
        return found

    def reply(self, message_id: str) -> dict:
        while True:
            reply = self.client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"]["msg_id"] == message_id:
                return reply["content"]

    def run(self, code: str) -> dict:
        return self.reply(self.client.execute(code))

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture
def debugger():
    running = Debugger()
    yield running
    running.stop()


def test_breakpoints_steps_frames_and_variables(debugger: Debugger) -> None:
    debugger.start()
    assert debugger.run(FUNCTION)["status"] == "ok"
    path = debugger.break_at(CELL, 2)
    cell = debugger.client.execute(CELL)
    thread, frames = debugger.stopped()
    assert (frames[0]["source"]["path"], frames[0]["line"]) == (path, 2), frames
    assert "2" in debugger.variables(frames[0])["sides"]

    debugger.ask("stepIn", {"threadId": thread})
    thread, frames = debugger.stopped()
    assert frames[0]["name"] == "area" and frames[0]["line"] in (1, 2), frames
    assert len(frames) == 2 and frames[1]["line"] == 2, frames
    assert float(debugger.variables(frames[0])["width"]) == 2.0

    debugger.ask("stepOut", {"threadId": thread})
    thread, frames = debugger.stopped()
    debugger.ask("next", {"threadId": thread})
    thread, frames = debugger.stopped()
    assert frames[0]["source"]["path"] == path and frames[0]["line"] in (3, 4), frames
    debugger.ask("continue", {"threadId": thread})
    assert debugger.reply(cell)["status"] == "ok"
    names = [one["name"] for one in debugger.ask("inspectVariables")["variables"]]
    assert {"sides", "total"} <= set(names)


def test_a_breakpoint_in_a_function_stops_its_callers_too(debugger: Debugger) -> None:
    debugger.start()
    path = debugger.break_at(FUNCTION, 2)
    assert debugger.run(FUNCTION)["status"] == "ok"
    cell = debugger.client.execute("area(4.0, 5.0)")
    thread, frames = debugger.stopped()
    assert (frames[0]["source"]["path"], frames[0]["line"]) == (path, 2), frames
    assert debugger.ask("source", {"source": {"path": path}})["content"] == FUNCTION
    debugger.ask("continue", {"threadId": thread})
    assert debugger.reply(cell)["status"] == "ok"


def test_an_interrupt_ends_a_cell_that_stands_at_a_breakpoint_and_keeps_variables(debugger: Debugger) -> None:
    debugger.start()
    assert debugger.run("let kept = 41;")["status"] == "ok"
    code = "let mut n = 0;\nloop {\n    n += kept;\n}"
    debugger.break_at(code, 3)
    cell = debugger.client.execute(code)
    debugger.stopped()
    # The loop meets its breakpoint again at once: a person who interrupts does not want to stand there.
    debugger.manager.interrupt_kernel()
    assert debugger.reply(cell)["ename"] == "KeyboardInterrupt"
    answer = debugger.client.execute_interactive("kept + 1", timeout=DEADLINE, output_hook=lambda message: None)
    assert answer["content"]["status"] == "ok"


def test_a_crashed_cell_and_a_lost_lldb_leave_a_debugger_that_works(debugger: Debugger) -> None:
    debugger.start()
    assert debugger.run("std::process::exit(3)")["status"] == "error"
    debugger.ask("disconnect", {"restart": False, "terminateDebuggee": False})
    # No process runs cells now: the next cell starts one.
    debugger.start()
    debugger.break_at("let a = 1;\na + 1", 2)
    cell = debugger.client.execute("let a = 1;\na + 1")
    thread, _ = debugger.stopped()
    assert debugger.ask("debugInfo")["stoppedThreads"] == [thread]
    debugger.ask("continue", {"threadId": thread})
    assert debugger.reply(cell)["status"] == "ok"
    kill_lldb(debugger.manager.provisioner.pid)
    debugger.event("continued")
    # Its breakpoints are in the code of the process, which is ended: and that is said.
    assert "gone" in debugger.run("1 + 1")["evalue"]
    cell = debugger.client.execute("let a = 1;\na + 1")
    thread, _ = debugger.stopped()
    debugger.ask("continue", {"threadId": thread})
    assert debugger.reply(cell)["status"] == "ok"


def kill_lldb(kernel: int) -> None:
    """Ends the kernel's lldb-dap from outside."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            facts = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if facts["Name"].startswith("lldb-dap") and int(facts["PPid"]) == kernel:
                found.append(int(facts["Pid"]))
    assert len(found) == 1, found
    os.kill(found[0], signal.SIGKILL)


def test_a_debugger_that_was_stopped_leaves_the_kernel_as_it_was(debugger: Debugger) -> None:
    debugger.start()
    debugger.break_at("1 + 1", 1)
    debugger.ask("disconnect", {"restart": False, "terminateDebuggee": False})
    assert debugger.run("1 + 1")["status"] == "ok"
    assert "stopped" not in debugger.events_so_far()
    debugger.start()
    cell = debugger.client.execute("1 + 1")
    thread, _ = debugger.stopped()
    debugger.ask("continue", {"threadId": thread})
    assert debugger.reply(cell)["status"] == "ok"
