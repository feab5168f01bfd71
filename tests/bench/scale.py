"""How the gateway's memory and answers grow with idle WebSockets and idle kernels, on one gateway.

    python tests/bench/scale.py [--programs target/release] [--websockets 1000,2000,5000,10000] [--kernels 100,500,1000,2000]

Kernels are ours with the scripted evaluator, without brokers; WebSockets are spread over ten of them. Needs two open files for
each WebSocket, one at each end: `ulimit -Hn` is raised as far as the system allows. Figures are p50 (p99) of 200.
"""

import argparse
import asyncio
import os
import resource
import statistics
import time
from pathlib import Path

import aiohttp
from gateway import SCRIPTED, Client, Server, drain, ours

ROUNDS = 200
# Starts that are under way at the same time.
AT_ONCE = 8


def raise_limit() -> int:
    """As many open files as the system allows; root may raise what it was started with."""
    wanted = int(Path("/proc/sys/fs/nr_open").read_text())
    for hard in (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
        except (ValueError, PermissionError):
            continue
    raise SystemExit("the limit of open files cannot be read")


async def trips(client: Client, what) -> str:
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await what()
        seconds.append((time.perf_counter() - begun) * 1000)
    cuts = statistics.quantiles(seconds, n=100)
    return f"{statistics.median(seconds):.2f} ({cuts[98]:.2f}) ms"


async def started(http: aiohttp.ClientSession, server: Server, count: int) -> list[Client]:
    async def one() -> Client:
        client = await Client(http, server).start()
        await client.open()
        await client.info()
        return client

    clients = []
    for at in range(0, count, AT_ONCE):
        clients += await asyncio.gather(*(one() for _ in range(min(AT_ONCE, count - at))))
    return clients


async def websockets(http: aiohttp.ClientSession, server: Server, steps: list[int]) -> None:
    hosts = await started(http, server, 10)
    probe = (await started(http, server, 1))[0]
    base, reading = server.memory(), []
    for step in steps:
        begun = time.perf_counter()
        while len(reading) < step:
            some = []
            for at in range(min(50, step - len(reading))):
                one = Client(http, server)
                one.kernel = hosts[(len(reading) + at) % len(hosts)].kernel
                some.append(one.open())
            reading += [asyncio.create_task(drain(one)) for one in await asyncio.gather(*some)]
        seconds, grown = time.perf_counter() - begun, server.memory() - base
        info = await trips(probe, probe.info)
        cell = await trips(probe, lambda: probe.execute(server.words.small))
        print(
            f"  {step:>6} WebSockets  {grown:7.1f} MiB more, {grown * 1024 / step:5.1f} KiB each, "
            f"opened in {seconds:.1f} s; kernel_info {info}, execute {cell}",
            flush=True,
        )
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def kernels(http: aiohttp.ClientSession, server: Server, steps: list[int]) -> None:
    probe = (await started(http, server, 1))[0]
    base, clients = server.memory(), []
    for step in steps:
        begun = time.perf_counter()
        clients += await started(http, server, step - len(clients))
        seconds, grown = time.perf_counter() - begun, server.memory() - base
        info = await trips(probe, probe.info)
        cell = await trips(probe, lambda: probe.execute(server.words.small))
        print(
            f"  {step:>6} kernels     {grown:7.1f} MiB more, {grown * 1024 / step:5.1f} KiB each, "
            f"started in {seconds:.1f} s; kernel_info {info}, execute {cell}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=Path("target/release"))
    parser.add_argument("--websockets", default="1000,2000,5000,10000")
    parser.add_argument("--kernels", default="100,500,1000,2000")
    arguments = parser.parse_args()
    programs = arguments.programs.absolute()
    scripted = [str(programs / "alephlab-kernel"), "run", "--connection-file", "{connection_file}", "--engine", "scripted"]

    async def measure(server: Server, what, steps: str) -> None:
        # One connection each, and all of them at once.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            await what(http, server, [int(step) for step in steps.split(",")])

    print(f"load {os.getloadavg()[0]:.1f}, {raise_limit()} open files")
    for what, steps in ((websockets, arguments.websockets), (kernels, arguments.kernels)):
        with ours(programs, scripted, SCRIPTED) as server:
            asyncio.run(measure(server, what, steps))
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
