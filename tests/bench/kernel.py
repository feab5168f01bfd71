"""Times Rust kernels side by side, as a client sees them: request to idle, over ZeroMQ.

    python tests/bench/kernel.py alephlab [PEER ...] [--rounds 15] [--only startup,plain,candle] [--json OUT]

Each name is an installed kernelspec. Rounds go over all kernels in turn, so that load falls on all alike. The first
kernel is the one compared: ratios are the peer's median divided by its own. `candle` cells need candle in scope: a
kernel whose name begins with `alephlab` has it, any other one gets it through `:dep`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time

import psutil
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

DEADLINE = 1200
CANDLE_DEP = ':dep candle-core = "=0.11.1"\nuse candle_core::{Tensor, Device, DType, Var};'

PLAIN = {
    "expression": "1 + {n}",
    "let": "let x{n} = {n};",
    "println": 'println!("{{}}", {n});',
    "vec of strings": 'let v: Vec<String> = (0..{n} % 7 + 3).map(|i| format!("{{i}}-{n}")).collect(); v.join(",")',
    "type error": 'let z: i32 = "a{n}";',
}
CANDLE = {
    "expression, candle in scope": "2 + {n}",
    "let, candle in scope": "let y{n} = {n};",
    "type error, candle in scope": 'let z: i32 = "b{n}";',
    "new tensor": "let t{n} = Tensor::randn(0f32, 1f32, (64, 64), &Device::Cpu)?;",
    "matmul": (
        "let m{n} = Tensor::ones((64, {n} % 5 + 2), DType::F32, &Device::Cpu)?;"
        " m{n}.matmul(&m{n}.t()?)?.sum_all()?.to_scalar::<f32>()?"
    ),
}


def start(name: str) -> tuple[KernelManager, BlockingKernelClient]:
    """A kernel that has answered, and its client."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(stderr=open(os.devnull, "w"))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    return manager, client


class Kernel:
    """A running kernel and the times of its start, in seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        started = time.perf_counter()
        self.manager, self.client = start(name)
        self.ready = time.perf_counter() - started
        self.run("1")
        self.first_cell = time.perf_counter() - started
        self.has_candle = False

    def run(self, code: str, fails: bool = False) -> float:
        """Runs a cell; seconds from the request to idle. A cell that ends otherwise than said is an error."""
        shown: list[str] = []

        def hook(message: dict) -> None:
            if message["msg_type"] == "error":
                shown.append("\n".join(message["content"]["traceback"]))

        started = time.perf_counter()
        reply = self.client.execute_interactive(code, timeout=DEADLINE, output_hook=hook)
        took = time.perf_counter() - started
        status = reply["content"]["status"]
        # evcxr_jupyter answers some failures with `ok`; what it shows is what counts.
        if fails != (status == "error" or bool(shown)):
            raise RuntimeError(f"{self.name}: {code!r} ended with {status}: {shown}")
        return took

    def candle(self) -> float:
        """Brings candle into scope; seconds until its first result."""
        started = time.perf_counter()
        if not self.has_candle and not self.name.startswith("alephlab"):
            self.run(CANDLE_DEP)
        number = random.randrange(10**9)
        self.run(f"Tensor::ones((2, 2), DType::F32, &Device::Cpu)?.sum_all()?.to_scalar::<f32>()? + {number}f32")
        self.has_candle = True
        return time.perf_counter() - started

    def memory(self) -> dict[str, tuple[float, float]]:
        """Of each program of the kernel, in MB: its share of memory (pages that several processes have are divided
        among them, "PSS"), and all that it has in memory, where such pages count for each ("RSS")."""
        top = psutil.Process(self.manager.provisioner.pid)
        found: dict[str, tuple[float, float]] = {}
        for process in [top, *top.children(recursive=True)]:
            full = process.memory_full_info()
            share, resident = found.get(process.name(), (0.0, 0.0))
            found[process.name()] = (share + full.pss / 1e6, resident + full.rss / 1e6)
        return found

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def summary(values: list[float]) -> dict[str, float]:
    """Median and p99 in ms, and how many."""
    ordered = sorted(values)
    last = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"median_ms": statistics.median(ordered) * 1e3, "p99_ms": last * 1e3, "count": len(ordered)}


def measure(names: list[str], rounds: int, parts: list[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds by cell and kernel."""
    times: dict[str, dict[str, list[float]]] = {}

    def add(cell: str, name: str, seconds: float) -> None:
        times.setdefault(cell, {}).setdefault(name, []).append(seconds)

    if "startup" in parts:
        for _ in range(max(3, rounds // 5)):
            for name in names:
                kernel = Kernel(name)
                add("start to kernel_info", name, kernel.ready)
                add("start to the end of the first cell", name, kernel.first_cell)
                kernel.stop()
    kernels = [Kernel(name) for name in names]
    for kernel in kernels:
        kernel.run("let warm = 1;")
    idle = {kernel.name: kernel.memory() for kernel in kernels}
    # Cells that nobody has compiled yet: a kernel may keep what it compiled, also for later ones.
    number = random.randrange(10**8)
    for part, cells in [("plain", PLAIN), ("candle", CANDLE)]:
        if part not in parts:
            continue
        if part == "candle":
            for kernel in kernels:
                add("start to the first candle result", kernel.name, kernel.first_cell + kernel.candle())
        for _ in range(rounds):
            number += 1
            for cell, code in cells.items():
                for kernel in kernels:
                    add(cell, kernel.name, kernel.run(code.format(n=number), fails="error" in cell))
    if "plain" in parts:
        for _ in range(rounds):
            for kernel in kernels:
                add("unchanged cell again", kernel.name, kernel.run("warm + 1"))
        for kernel in kernels:
            for item in range(120):
                kernel.run(
                    f"#[derive(Debug, Clone)] pub struct Item{item} {{ pub a: i32 }}\n"
                    f"impl Item{item} {{ pub fn next(&self) -> i32 {{ self.a + {item} }} }}"
                )
        for _ in range(rounds):
            number += 1
            for kernel in kernels:
                add("expression after 120 items", kernel.name, kernel.run(f"3 + {number}"))
    for kernel in kernels:
        kernel.stop()
    for name, processes in idle.items():
        share, resident = (sum(values) for values in zip(*processes.values(), strict=True))
        each = {key: f"{one:.0f} of {all:.0f}" for key, (one, all) in processes.items()}
        print(f"memory of {name}: share {share:.0f} MB, resident {resident:.0f} MB:", each)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="startup,plain,candle")
    parser.add_argument("--json")
    asked = parser.parse_args()
    print(f"load at the start: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    times = measure(asked.kernels, asked.rounds, asked.only.split(","))
    table = {cell: {name: summary(values) for name, values in row.items()} for cell, row in times.items()}
    own = asked.kernels[0]
    for cell, row in table.items():
        line = f"{cell:36}"
        for name, one in row.items():
            line += f"  {name} {one['median_ms']:9.1f} ms (p99 {one['p99_ms']:.1f})"
            if name != own:
                line += f" = {one['median_ms'] / row[own]['median_ms']:.1f}x"
        print(line)
    if asked.json:
        with open(asked.json, "w") as out:
            json.dump(table, out, indent=1)


if __name__ == "__main__":
    main()
