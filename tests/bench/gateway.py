"""The gateway beside jupyter_server and jupyter_kernel_gateway, all with ipykernel, and beside the kernel alone, in one run.

    python tests/bench/gateway.py [--programs target/release] [--rounds 200] [--websockets 1000] [--kernels 50] [--output-only 9]

Wants jupyter_server, jupyter_kernel_gateway, ipykernel, jupyter_client and aiohttp, and `cargo build --release --workspace --examples`. Figures are
medians unless said; the load is printed before and after.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
from jupyter_client.manager import KernelManager

V1 = "v1.kernel.websocket.jupyter.org"
MEGABYTES = 50


class Words(NamedTuple):
    """Cells in a kernel's language: a small one, one that prints much, one that prints 20 lines slowly."""

    small: str
    much: str
    slow: str | None


class Server:
    """A running server: address, headers, its own process (kernels are others), and its kernels' words."""

    def __init__(self, url: str, token: str, pid: int, kernel: str, words: "Words") -> None:
        self.url, self.pid, self.kernel, self.words = url, pid, kernel, words
        self.headers = {"Authorization": f"token {token}"}

    def memory(self) -> float:
        """Resident bytes of the server itself, MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


PYTHON = Words(
    "1",
    f"import sys\nfor _ in range({MEGABYTES * 1024}): sys.stdout.write('x' * 1023 + '\\n')",
    "import time\nfor i in range(20):\n    print(f'L{i}', flush=True)\n    time.sleep(0.1)",
)
SCRIPTED = Words("result 1", f"flood {MEGABYTES}", None)


@contextmanager
def ours(programs: Path, argv: list[str], words: Words):
    with tempfile.TemporaryDirectory() as data:
        command = [programs / "examples/any_kernel", programs, data, *argv]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        yield Server(process.stdout.readline().strip(), "bench-operator-token", process.pid, "alephlab", words)
        process.stdin.close()
        process.wait(30)


@contextmanager
def jupyter_server(port: int, *flags: str):
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "jupyter_server", "--no-browser", f"--port={port}", "--IdentityProvider.token=bench",
            "--allow-root", f"--ServerApp.root_dir={folder}", *flags,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield Server(f"http://127.0.0.1:{port}", "bench", process.pid, "python3", PYTHON)
        process.terminate()
        process.wait(30)


@contextmanager
def kernel_gateway(port: int):
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "kernel_gateway", f"--KernelGatewayApp.port={port}",
            "--KernelGatewayApp.auth_token=bench", "--KernelGatewayApp.list_kernels=True",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield Server(f"http://127.0.0.1:{port}", "bench", process.pid, "python3", PYTHON)
        process.terminate()
        process.wait(30)


class Client:
    """One WebSocket of a kernel, with the v1 framing."""

    def __init__(self, http: aiohttp.ClientSession, server: Server) -> None:
        self.http, self.server = http, server

    async def call(self, method: str, path: str, body: object = None) -> object:
        url = self.server.url + path
        async with self.http.request(method, url, json=body, headers=self.server.headers) as answer:
            text = await answer.read()
            assert answer.status < 300, (answer.status, text)
            return json.loads(text) if text else None

    async def start(self) -> "Client":
        self.kernel = (await self.call("POST", "/api/kernels", {"name": self.server.kernel}))["id"]
        return self

    async def stop(self) -> None:
        await self.call("DELETE", f"/api/kernels/{self.kernel}")

    async def open(self, session: str | None = None) -> "Client":
        self.session = session or uuid.uuid4().hex
        url = f"{self.server.url}/api/kernels/{self.kernel}/channels?session_id={self.session}"
        self.socket = await self.http.ws_connect(url, protocols=[V1], headers=self.server.headers, max_msg_size=0)
        return self

    async def send(self, kind: str, content: dict, metadata: dict = {}) -> str:
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": kind, "session": self.session, "username": "b", "version": "5.3"}
        parts = [b"shell", *(json.dumps(part).encode() for part in (header, {}, metadata, content))]
        offsets = [8 * (len(parts) + 2)]
        for part in parts:
            offsets.append(offsets[-1] + len(part))
        await self.socket.send_bytes(struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(parts))
        return message

    async def receive(self, seconds: float = 120) -> tuple[dict, dict, dict]:
        data = (await self.socket.receive(seconds)).data
        (count,) = struct.unpack_from("<Q", data)
        at = struct.unpack_from(f"<{count}Q", data, 8)
        header, parent, _, content = (json.loads(data[at[i] : at[i + 1]]) for i in range(1, 5))
        return header, parent, content

    async def info(self) -> None:
        message = await self.send("kernel_info_request", {})
        while True:
            header, parent, _ = await self.receive()
            if header["msg_type"] == "kernel_info_reply" and parent["msg_id"] == message:
                return

    async def execute(self, code: str, on=lambda kind, content: None) -> None:
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "user_expressions": {}}
        # As a page of JupyterLab: our gateway follows such cells for their notebook.
        message = await self.send("execute_request", content, {"cellId": "timed"})
        replied = idle = False
        while not (replied and idle):
            header, parent, content = await self.receive()
            if parent.get("msg_id") != message:
                continue
            on(header["msg_type"], content)
            replied |= header["msg_type"] == "execute_reply"
            idle |= header["msg_type"] == "status" and content["execution_state"] == "idle"


def timed(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    last = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered) * 1e3:.2f} ms, p99 {last * 1e3:.2f}"


async def repeat(rounds: int, what) -> list[float]:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await what()
        seconds.append(time.perf_counter() - begun)
    return seconds


async def round_trips(client: Client, rounds: int) -> None:
    await client.open()
    await client.info()
    small = client.server.words.small
    await repeat(20, lambda: client.execute(small))
    print(f"  kernel_info          {timed(await repeat(rounds, client.info))}")
    print(f"  execute              {timed(await repeat(rounds, lambda: client.execute(small)))}")
    await client.socket.close()


async def starts(http: aiohttp.ClientSession, server: Server) -> None:
    ready = []
    for _ in range(10):
        begun = time.perf_counter()
        client = await Client(http, server).start()
        await client.open()
        await client.info()
        ready.append(time.perf_counter() - begun)
        await client.socket.close()
        await client.stop()
    print(f"  start to kernel_info {timed(ready)}")


async def stdout(client: Client) -> None:
    await client.open()
    await client.info()
    got = 0

    def count(kind: str, content: dict) -> None:
        nonlocal got
        got += len(content["text"]) if kind == "stream" and content["name"] == "stdout" else 0

    begun = time.perf_counter()
    await client.execute(client.server.words.much, count)
    seconds = time.perf_counter() - begun
    print(f"  {MEGABYTES} MB of stdout      {got >> 20} MB came in {seconds:.2f} s: {got / 2**20 / seconds:.0f} MB/s")
    await client.socket.close()


def flood(server: Server, programs: Path) -> tuple[float, float]:
    """Megabytes and seconds of much output to a client in Rust, which reads faster than Python does."""
    token = server.headers["Authorization"].removeprefix("token ")
    command = [programs.absolute() / "examples/drain", server.url, token, server.kernel, server.words.much]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    said = json.loads(done.stdout)
    return said["bytes"] / 1e6, said["seconds"]


def drained(server: Server, programs: Path) -> None:
    try:
        megabytes, seconds = flood(server, programs)
    except RuntimeError as error:
        print(f"  by a client in Rust  {error}")
        return
    print(f"  by a client in Rust  {megabytes:.0f} MB in {seconds:.2f} s, {megabytes / seconds:.0f} MB/s")


def output_only(scripted: list[str], arguments: argparse.Namespace) -> None:
    """Output of our gateway and of jupyter_server without its limits, in turns."""
    unlimited = ["--ZMQChannelsWebsocketConnection.limit_rate=False"]
    programs = arguments.programs.absolute()
    rates = ([], [])
    with ours(programs, scripted, SCRIPTED) as one, jupyter_server(arguments.port, *unlimited) as other:
        asyncio.run(answers(other))
        for _ in range(arguments.output_only):
            for server, seen in zip((one, other), rates):
                megabytes, seconds = flood(server, programs)
                seen.append(megabytes / seconds)
    for name, seen in zip(("the gateway, our kernel", "jupyter_server without its limits, ipykernel"), rates):
        print(f"  {name}: {statistics.median(seen):.0f} MB/s, {min(seen):.0f} to {max(seen):.0f}")
    print(f"  {statistics.median(rates[0]) / statistics.median(rates[1]):.1f} times")


async def replay(client: Client) -> None:
    """Output made while nobody listens, heard by a page that was reloaded."""
    await client.open()
    await client.info()
    content = {"code": client.server.words.slow, "silent": False, "store_history": False, "allow_stdin": False, "user_expressions": {}}
    message = await client.send("execute_request", content)
    seen = set()

    async def listen(seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while len(seen) < 20:
                    header, parent, content = await client.receive()
                    if header["msg_type"] == "stream" and parent.get("msg_id") == message:
                        seen.update(content["text"].split())
        except TimeoutError:
            pass

    await listen(0.7)
    await client.socket.close()
    await asyncio.sleep(2)
    await client.open()
    await listen(3)
    print(f"  a reloaded page      has {len(seen)} of 20 lines")
    await client.socket.close()


async def idle(http: aiohttp.ClientSession, server: Server, websockets: int, kernels: int) -> None:
    client = await Client(http, server).start()
    await client.open()
    await client.info()
    before, begun, opened = server.memory(), time.perf_counter(), []
    for at in range(0, websockets, 50):
        some = (Client(http, server) for _ in range(min(50, websockets - at)))
        opened += await asyncio.gather(*(open_on(one, client.kernel) for one in some))
    seconds, each = time.perf_counter() - begun, (server.memory() - before) * 1024 / websockets
    reading = [asyncio.create_task(drain(one)) for one in opened]
    fanned = timed(await repeat(5, lambda: client.execute(server.words.small)))
    print(f"  {websockets} websockets      {each:.0f} KiB each, opened in {seconds:.1f} s; execute with all {fanned}")
    for task in reading:
        task.cancel()
    await asyncio.gather(*(one.socket.close() for one in opened), return_exceptions=True)
    await client.stop()
    before, many = server.memory(), []
    for _ in range(kernels):
        one = await Client(http, server).start()
        await one.open()
        await one.info()
        many.append(one)
    each = (server.memory() - before) * 1024 / kernels
    trips = timed(await repeat(50, many[0].info))
    print(f"  {kernels} kernels          {each:.0f} KiB each in the server; kernel_info {trips}")
    for one in many:
        await one.socket.close()
        await one.stop()


async def open_on(client: Client, kernel: str) -> Client:
    client.kernel = kernel
    return await client.open()


async def drain(client: Client) -> None:
    while (await client.socket.receive()).type == aiohttp.WSMsgType.BINARY:
        pass


def alone(argv: list[str], words: Words, rounds: int) -> None:
    """The same kernel without a server: what a gateway adds to."""
    manager = KernelManager(transport="ipc")
    manager.kernel_cmd = argv
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(60)

    def info() -> None:
        message = client.kernel_info()
        while client.get_shell_msg()["parent_header"].get("msg_id") != message:
            pass

    def execute() -> None:
        message = client.execute(words.small, store_history=False)
        while client.get_shell_msg()["parent_header"].get("msg_id") != message:
            pass
        while True:
            said = client.get_iopub_msg()
            if said["parent_header"].get("msg_id") == message and said["content"].get("execution_state") == "idle":
                return

    for name, what in (("kernel_info", info), ("execute", execute)):
        seconds = []
        for _ in range(rounds + 20):
            begun = time.perf_counter()
            what()
            seconds.append(time.perf_counter() - begun)
        print(f"  {name:<20} {timed(seconds[20:])}")
    client.stop_channels()
    manager.shutdown_kernel(now=True)


async def answers(server: Server) -> None:
    """Waits until a server that was started answers."""
    async with aiohttp.ClientSession() as http:
        for _ in range(200):
            try:
                await Client(http, server).call("GET", "/api")
                return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def measure(server: Server, arguments: argparse.Namespace) -> None:
    await answers(server)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        print(f"  the server itself    {server.memory():.0f} MiB when it has started")
        await starts(http, server)
        client = await Client(http, server).start()
        await round_trips(client, arguments.rounds)
        await stdout(client)
        drained(server, arguments.programs)
        if server.words.slow:
            await replay(client)
        await client.stop()
        await idle(http, server, arguments.websockets, arguments.kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=Path("target/release"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--websockets", type=int, default=1000)
    parser.add_argument("--kernels", type=int, default=20)
    parser.add_argument("--port", type=int, default=18888)
    parser.add_argument("--output-only", type=int, metavar="ROUNDS", help="so many rounds of output to a client in Rust, and nothing else")
    arguments = parser.parse_args()
    programs = arguments.programs.absolute()
    python = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    scripted = [str(programs / "alephlab-kernel"), "run", "--connection-file", "{connection_file}", "--engine", "scripted"]
    print(f"load {os.getloadavg()[0]:.1f}")
    if arguments.output_only:
        output_only(scripted, arguments)
        return
    print("our scripted kernel alone, by jupyter_client")
    alone(scripted, SCRIPTED, arguments.rounds)
    print("the gateway with it")
    with ours(programs, scripted, SCRIPTED) as server:
        asyncio.run(measure(server, arguments))
    print("ipykernel alone, by jupyter_client")
    alone(python, PYTHON, arguments.rounds)
    print("the gateway with it")
    with ours(programs, python, PYTHON) as server:
        asyncio.run(measure(server, arguments))
    print("jupyter_server with it")
    with jupyter_server(arguments.port) as server:
        asyncio.run(measure(server, arguments))
    print("jupyter_kernel_gateway with it")
    with kernel_gateway(arguments.port + 2) as server:
        asyncio.run(measure(server, arguments))
    unlimited = ["--ZMQChannelsWebsocketConnection.limit_rate=False"]
    print("jupyter_server without its limits of output")
    with jupyter_server(arguments.port + 1, *unlimited) as server:
        arguments.websockets, arguments.kernels = 50, 2
        asyncio.run(measure(server, arguments))
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
