"""Run by the image's own Python, inside the image: is host.json true, and does a kernel run cells with what lies there?

Speaks ZMTP and Jupyter's protocol by itself: the image holds no client, and is to be tested without one. Called by `test`.
"""

import hashlib
import hmac
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

HOST = Path("/etc/alephlab/host.json")
DEADLINE_SECONDS = 180
# What is sent, what is answered. The second cell needs the runtime, the third a crate, for which cargo must find the runtime
# as it was built and fetch nothing, the last one the variables of all.
CELLS = [
    ("let digits = vec![3, 1, 4]; digits.iter().sum::<i32>()", "8"),
    ("let tensor = Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?; tensor.sum_all()?.to_scalar::<f32>()?", "6.0"),
    (":dep serde_json\nserde_json::json!([1]).to_string()", "\"[1]\""),
    ("(digits.len(), tensor.elem_count())", "(3, 3)"),
]
WRONG_CELL = 'let wrong: i32 = "text";'
MORE, LONG, COMMAND = 1, 2, 4


class Socket:
    """One end of a ZeroMQ connection over a Unix socket."""

    def __init__(self, path: str, kind: str, deadline: float) -> None:
        self.stream = connect(path, deadline)
        self.stream.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        self.read(64)
        name = b"\x0bSocket-Type"
        self.frame(COMMAND, b"\x05READY" + name + struct.pack(">I", len(kind)) + kind.encode())
        self.receive()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.stream.recv(count - len(data))
            if not part:
                raise SystemExit("the kernel has closed a connection")
            data += part
        return data

    def frame(self, flags: int, body: bytes) -> None:
        self.stream.sendall(struct.pack(">BQ", flags | LONG, len(body)) + body)

    def send(self, parts: list[bytes]) -> None:
        for part in parts[:-1]:
            self.frame(MORE, part)
        self.frame(0, parts[-1])

    def receive(self) -> list[bytes]:
        parts = []
        while True:
            flags = self.read(1)[0]
            size = struct.unpack(">Q", self.read(8))[0] if flags & LONG else self.read(1)[0]
            parts.append(self.read(size))
            if not flags & MORE:
                return parts


def connect(path: str, deadline: float) -> socket.socket:
    while True:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(max(deadline - time.monotonic(), 0.1))
        try:
            stream.connect(path)
            return stream
        except (FileNotFoundError, ConnectionRefusedError):
            stream.close()
            if time.monotonic() > deadline:
                raise SystemExit("the kernel does not listen") from None
            time.sleep(0.01)


class Client:
    """What a notebook would be: one session with a kernel."""

    def __init__(self, prefix: str, key: str) -> None:
        self.key, self.session = key.encode(), uuid.uuid4().hex
        deadline = time.monotonic() + DEADLINE_SECONDS
        self.iopub = Socket(f"{prefix}-2", "SUB", deadline)
        self.iopub.send([b"\x01"])
        self.shell = Socket(f"{prefix}-1", "DEALER", deadline)

    def ask(self, kind: str, content: dict) -> dict:
        """Sends a request; its reply."""
        self.request = uuid.uuid4().hex
        header = {"msg_id": self.request, "msg_type": kind, "session": self.session, "username": "", "version": "5.4",
                  "date": "2026-01-01T00:00:00Z"}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self.shell.send([b"<IDS|MSG>", self.sign(parts), *parts])
        while True:
            parent, _, reply = self.open(self.shell.receive())
            if parent == self.request:
                return reply

    def told(self) -> list[tuple[str, dict]]:
        """What the kernel told everybody about the last request, until it was idle."""
        messages = []
        while True:
            parent, kind, content = self.open(self.iopub.receive())
            if parent == self.request:
                messages.append((kind, content))
                if content.get("execution_state") == "idle":
                    return messages

    def sign(self, parts: list[bytes]) -> bytes:
        return hmac.new(self.key, b"".join(parts), hashlib.sha256).hexdigest().encode()

    def open(self, message: list[bytes]) -> tuple[str | None, str, dict]:
        at = message.index(b"<IDS|MSG>")
        signature, parts = message[at + 1], message[at + 2 : at + 6]
        if not hmac.compare_digest(signature, self.sign(parts)):
            raise SystemExit("a message of the kernel is not signed")
        header, parent, _, content = (json.loads(part) for part in parts)
        return parent.get("msg_id"), header["msg_type"], content


def read_host() -> dict:
    host = json.loads(HOST.read_text())
    for name in ("kernel_program", "broker_program", "runtime_dir", "work_dir"):
        path = Path(host[name])
        usable = os.access(path, os.X_OK) and path.is_absolute()
        fits = path.is_file() if name.endswith("_program") else path.is_dir()
        if not (usable and fits):
            raise SystemExit(f"{HOST}: {name} is {path}, which is not there or cannot be used")
    if not (Path(host["runtime_dir"]) / "stamp.json").is_file():
        raise SystemExit(f"{host['runtime_dir']} is not a built runtime")
    return host


def run_cells(client: Client) -> None:
    client.ask("kernel_info_request", {})
    for code, expected in CELLS:
        started = time.monotonic()
        reply = client.ask("execute_request", {"code": code, "silent": False, "store_history": True})
        told = client.told()
        results = [content["data"]["text/plain"] for kind, content in told if kind == "execute_result"]
        if reply["status"] != "ok" or results != [expected]:
            raise SystemExit(f"a cell answered {results}, not {expected}: {reply}")
        print(f"a cell answered {expected} after {time.monotonic() - started:.2f} s")
    reply = client.ask("execute_request", {"code": WRONG_CELL, "silent": False, "store_history": True})
    if reply["status"] != "error":
        raise SystemExit(f"a wrong cell was not refused: {reply}")
    print(f"a wrong cell was refused: {reply['ename']}")


def main() -> None:
    host = read_host()
    print(f"{HOST} is true")
    with tempfile.TemporaryDirectory() as folder:
        prefix, key = f"{folder}/k", uuid.uuid4().hex
        connection = Path(folder) / "connection.json"
        connection.write_text(json.dumps({
            "transport": "ipc", "ip": prefix, "key": key, "signature_scheme": "hmac-sha256", "shell_port": 1,
            "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5, "kernel_name": "alephlab"}))
        command = [host["kernel_program"], "run", "--connection-file", str(connection), "--runtime",
                   host["runtime_dir"], "--engine", host["engine"]]
        with subprocess.Popen(command, cwd=host["work_dir"], stdin=subprocess.DEVNULL) as kernel:
            try:
                run_cells(Client(prefix, key))
            finally:
                kernel.terminate()


if __name__ == "__main__":
    sys.exit(main())
