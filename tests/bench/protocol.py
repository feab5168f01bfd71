"""The messaging side of kernels, side by side: start, round trips, floods of text, a stalled client, completion.

    python tests/bench/protocol.py alephlab [PEER ...] [--rounds 200] [--json OUT]

Each name is an installed kernelspec (Rust or Python). Times are a client's, from request to idle unless said, medians
and p99 in ms. A stalled client is one that subscribes and then reads nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import statistics
import sys
import time

import psutil
import zmq
from kernel import start

DEADLINE = 600
# A kernel that says nothing for so long while a cell prints has stopped.
SILENCE = 30
LINES = 10_000
BURST = 50 * 1024 * 1024
CODE = {
    "rust": {
        "nothing": "// nothing to compile",
        "prints": f'for i in 0..{LINES} {{ println!("{{}}", i); }}',
        "burst": '{ use std::io::Write; let s = ("x".repeat(99) + "\\n").repeat(524288);'
        " std::io::stdout().write_all(s.as_bytes()).unwrap(); }",
        "loop": "loop { std::thread::sleep(std::time::Duration::from_millis(5)); }",
        "complete": "std::collections::Ha",
        "inspect": "std::mem::swap",
    },
    "python": {
        "nothing": "# nothing to compile",
        "prints": f"for i in range({LINES}): print(i)",
        "burst": "import sys; _ = sys.stdout.write(('x' * 99 + '\\n') * 524288)",
        "loop": "import time\nwhile True: time.sleep(0.005)",
        "complete": "imp",
        "inspect": "print",
    },
}


class Kernel:
    """A running kernel and a client."""

    def __init__(self, name: str) -> None:
        self.name = name
        started = time.perf_counter()
        self.manager, self.client = start(name)
        self.ready = time.perf_counter() - started
        language = self.ask("kernel_info_request", {})[1]["language_info"]["name"].lower()
        self.code = CODE[language]

    def send(self, msg_type: str, content: dict, channel: str = "shell") -> str:
        message = self.client.session.msg(msg_type, content)
        getattr(self.client, f"{channel}_channel").send(message)
        return message["header"]["msg_id"]

    def reply(self, message_id: str, channel: str = "shell") -> dict:
        get = getattr(self.client, f"get_{channel}_msg")
        while True:
            reply = get(timeout=DEADLINE)
            if reply["parent_header"].get("msg_id") == message_id:
                return reply["content"]

    def ask(self, msg_type: str, content: dict, channel: str = "shell") -> tuple[float, dict]:
        """Seconds from request to reply, and its content."""
        started = time.perf_counter()
        content = self.reply(self.send(msg_type, content, channel), channel)
        return time.perf_counter() - started, content

    def execute(self, code: str) -> str:
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                   "allow_stdin": False, "stop_on_error": True}  # fmt: skip
        return self.send("execute_request", content)

    def idle(self, message_id: str, limit: float = DEADLINE) -> tuple[int, int]:
        """Reads up to the idle of a request: messages of streams, and their bytes."""
        messages = text = 0
        while True:
            message = self.client.get_iopub_msg(timeout=limit)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if message["msg_type"] == "stream":
                messages += 1
                text += len(message["content"]["text"])
            elif message["content"].get("execution_state") == "idle":
                return messages, text

    def run(self, code: str) -> tuple[float, int, int]:
        """Seconds from request to idle and reply, and what came as text."""
        started = time.perf_counter()
        message_id = self.execute(code)
        messages, text = self.idle(message_id, SILENCE)
        self.reply(message_id)
        return time.perf_counter() - started, messages, text

    def at_cursor(self, kind: str) -> float:
        code = self.code[kind]
        content = {"code": code, "cursor_pos": len(code)} | ({"detail_level": 0} if kind == "inspect" else {})
        return self.ask(f"{kind}_request", content)[0]

    def answers_beside(self) -> bool:
        """Whether a completion is answered within 2 s."""
        self.send("complete_request", {"code": self.code["complete"], "cursor_pos": len(self.code["complete"])})
        try:
            return bool(self.client.get_shell_msg(timeout=2))
        except queue.Empty:
            return False

    def start_loop(self) -> str:
        message_id = self.execute(self.code["loop"])
        while True:
            message = self.client.get_iopub_msg(timeout=DEADLINE)
            if message["msg_type"] == "execute_input" and message["parent_header"].get("msg_id") == message_id:
                return message_id

    def end_loop(self, message_id: str) -> None:
        self.manager.interrupt_kernel()
        self.reply(message_id)
        self.idle(message_id)

    def welcome(self) -> float | None:
        """Seconds until another client is welcomed; none where there is no welcome."""
        stream = zmq.Context.instance().socket(zmq.SUB)
        stream.subscribe(b"")
        started = time.perf_counter()
        stream.connect(f"tcp://{self.client.ip}:{self.client.iopub_port}")
        welcomed = stream.poll(500) and b"iopub_welcome" in b"".join(stream.recv_multipart())
        took = time.perf_counter() - started
        stream.close(0)
        return took if welcomed else None

    def stall(self) -> socket.socket:
        """A subscriber that reads nothing: ZMTP 3.0 by hand, because a real socket would read ahead."""
        stream = socket.create_connection((self.client.ip, self.client.iopub_port))
        stream.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL" + bytes(16) + bytes(1) + bytes(31))
        stream.recv(64, socket.MSG_WAITALL)
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
        stream.sendall(b"\x04" + bytes([len(ready)]) + ready)
        stream.sendall(b"\x00\x01\x01")
        return stream

    def memory(self) -> float:
        return psutil.Process(self.manager.provisioner.pid).memory_info().rss / 1e6

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def measure(names: list[str], rounds: int, add) -> None:
    for _ in range(max(5, rounds // 20)):
        for name in names:
            kernel = Kernel(name)
            add("start to kernel_info", name, kernel.ready)
            kernel.stop()
    kernels = [Kernel(name) for name in names]
    for kernel in kernels:
        kernel.run(kernel.code["nothing"])
        kernel.run("1 + 1")
        # Until the analyzer has started and has an answer.
        while kernel.at_cursor("complete") > 1 or kernel.at_cursor("inspect") > 1:
            pass
    for _ in range(rounds):
        for kernel in kernels:
            add("kernel_info, shell", kernel.name, kernel.ask("kernel_info_request", {})[0])
            add("kernel_info, control", kernel.name, kernel.ask("kernel_info_request", {}, "control")[0])
            add("cell with nothing to run", kernel.name, kernel.run(kernel.code["nothing"])[0])
    for _ in range(max(10, rounds // 4)):
        for kernel in kernels:
            add("complete, warm", kernel.name, kernel.at_cursor("complete"))
            add("inspect, warm", kernel.name, kernel.at_cursor("inspect"))
            welcome = kernel.welcome()
            if welcome is not None:
                add("another client's iopub_welcome", kernel.name, welcome)
    for kernel in kernels:
        looping = kernel.start_loop()
        if kernel.answers_beside():
            for _ in range(max(10, rounds // 4)):
                add("complete while a cell runs", kernel.name, kernel.at_cursor("complete"))
                add("inspect while a cell runs", kernel.name, kernel.at_cursor("inspect"))
        else:
            print(f"{kernel.name} completes nothing while a cell runs", file=sys.stderr)
        kernel.end_loop(looping)
    floods(kernels, max(3, rounds // 40), add)
    for kernel in kernels:
        kernel.stop()


def floods(kernels: list[Kernel], rounds: int, add) -> None:
    """Much text, without and with another client that reads nothing, in turn."""
    stopped: set[str] = set()
    for what, wanted in [("prints", sum(len(f"{i}\n") for i in range(LINES))), ("burst", BURST)]:
        for turn in range(rounds + 1):
            for kernel in kernels:
                if kernel.name in stopped:
                    continue
                try:
                    seconds, messages, text = kernel.run(kernel.code[what])
                    lost = "" if text >= wanted else f", {wanted - text} bytes lost"
                    if turn > 0:
                        add(what, kernel.name, seconds, f"{messages} messages{lost}")
                    before, stalled = kernel.memory(), kernel.stall()
                    seconds, messages, text = kernel.run(kernel.code[what])
                    if turn > 0:
                        add(f"{what}, a client stalled", kernel.name, seconds, f"+{kernel.memory() - before:.0f} MB")
                    stalled.close()
                except queue.Empty:
                    stopped.add(kernel.name)
                    print(f"{kernel.name} stops for all when one client stalls ({what})", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json")
    asked = parser.parse_args()
    print(f"load at the start: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    times: dict[str, dict[str, list[float]]] = {}
    notes: dict[tuple[str, str], str] = {}

    def add(what: str, name: str, seconds: float, note: str = "") -> None:
        times.setdefault(what, {}).setdefault(name, []).append(seconds * 1e3)
        notes[what, name] = note

    measure(asked.kernels, asked.rounds, add)
    for what, row in times.items():
        print(f"{what:32}", end="")
        for name, values in row.items():
            ordered = sorted(values)
            p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
            note = f" [{notes[what, name]}]" if notes[what, name] else ""
            print(f"  {name} {statistics.median(values):.2f} (p99 {p99:.2f}){note}", end="")
        print()
    if asked.json:
        with open(asked.json, "w") as out:
            json.dump(times, out, indent=1)


if __name__ == "__main__":
    main()
