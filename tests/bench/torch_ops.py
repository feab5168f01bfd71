"""Ops and small models: this repository's, stock candle's and PyTorch's, side by side at two threads.

    cargo build --release -p alephlab-ops --example ops_bench
    python tests/bench/torch_ops.py target/release/examples/ops_bench [--rounds 5] [--threads 2] [--case WORD] [--plain]

Needs `torch` (PyPI). All three take turns, case by case and round by round, so that what else the machine does falls on
all of them; a figure is the median of the rounds' medians, in ms. Prints a table of Markdown: a ratio below 1 is faster
than PyTorch.
`--plain` leaves out of our side what a kernel's child sets (`SETTINGS`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

# Memory of large tensors is kept rather than given back at each op and faulted in again (`kernel/src/child/memory.rs`);
# and candle's own threads, which spin beside rayon's, go to sleep sooner (`kernel/src/child/mod.rs`).
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "CANDLE_BARRIER_POOL_SPIN_LIMIT": "200",
}
# How long PyTorch runs a case in a round, as `TIME_MAX` of the bench.
SECONDS = 1.5
Case = Callable[[], object]


def elementwise() -> dict[str, Case]:
    four, other, square = torch.randn(4 << 20), torch.randn(4 << 20), torch.randn(2048, 2048)
    small, rows, column = torch.randn(8, 8), torch.randn(4096, 1024), torch.randn(1024)
    permuted, leaf = square.reshape(16, 128, 32, 64), four.clone().requires_grad_()
    return {
        "exp 4M": lambda: four.exp(),
        "gelu 4M": lambda: F.gelu(four, approximate="tanh"),
        "gelu_erf 4M": lambda: F.gelu(four),
        "silu 4M": lambda: F.silu(four),
        "relu 4M": lambda: F.relu(four),
        "tanh 4M": lambda: four.tanh(),
        "sigmoid 4M": lambda: four.sigmoid(),
        "sum_all 4M": lambda: four.sum(),
        "dropout 4M": lambda: F.dropout(four, 0.1),
        "gelu 8x8": lambda: F.gelu(small, approximate="tanh"),
        "gelu 4M forward+backward": backward(leaf, lambda x: F.gelu(x, approximate="tanh")),
        "transpose+contiguous 4M": lambda: square.t().contiguous(),
        "heads permute 4M": lambda: permuted.transpose(1, 2).contiguous(),
        "add 4M": lambda: four + other,
        "broadcast add 4M": lambda: rows + column,
        "8x8 add": lambda: small + small,
    }


def backward(leaf: torch.Tensor, op: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    def run() -> None:
        leaf.grad = None
        op(leaf).sum().backward()

    return run


def rowwise() -> dict[str, Case]:
    rows, tokens, vector = torch.randn(4096, 1024), torch.randn(1024, 256), torch.randn(256)
    logits, labels = torch.randn(4096, 1000).requires_grad_(), torch.randint(0, 1000, (4096,))
    weight, bias = vector.clone(), vector.clone()
    cases = {
        "softmax last 4096x1024": lambda: rows.softmax(-1),
        "softmax forward+backward": backward(rows.clone().requires_grad_(), lambda x: x.softmax(-1)),
        "layer_norm 1024x256": lambda: F.layer_norm(tokens, (256,), weight, bias),
        "layer_norm forward+backward": backward(
            tokens.clone().requires_grad_(), lambda x: F.layer_norm(x, (256,), weight, bias)
        ),
        "cross_entropy forward+backward": backward(logits, lambda x: F.cross_entropy(x, labels)),
    }
    for size in (512, 1024, 2048):
        a = torch.randn(size, size)
        cases[f"matmul {size}"] = lambda a=a: a @ a
    return cases


def images() -> dict[str, Case]:
    x, weight = torch.randn(8, 64, 56, 56).requires_grad_(), torch.randn(64, 64, 3, 3).requires_grad_()
    norm, param = nn.BatchNorm2d(64), torch.randn(4 << 20).requires_grad_()
    param.grad = torch.randn(4 << 20)
    optimiser = torch.optim.AdamW([param])

    def convolve() -> None:
        weight.grad = None
        backward(x, lambda x: F.conv2d(x, weight, padding=1))()

    def normalise() -> None:
        norm.zero_grad(set_to_none=True)
        backward(x, norm)()

    return {
        "conv3x3 forward+backward": convolve,
        "batch_norm forward+backward": normalise,
        "AdamW step 4M": lambda: optimiser.step(),
    }


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.all, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.all(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        hidden = [nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)]
        self.hidden = nn.Sequential(nn.LayerNorm(width), *hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(x)
        return x + self.hidden(x)


def training() -> dict[str, Case]:
    def step(model: nn.Module, loss: Callable[[], torch.Tensor], optimiser: torch.optim.Optimizer | None) -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()
        if optimiser:
            optimiser.step()

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    digits, digit_labels = torch.randn(6000, 784), torch.randint(0, 10, (6000,))
    images, image_labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    tokens = torch.randn(8, 128, 256)
    perceptron = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    convolutional = nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10),
    )  # fmt: skip
    transformer = nn.Sequential(*(Layer(256, 4) for _ in range(4)))
    optimisers = [torch.optim.AdamW(model.parameters()) for model in (perceptron, convolutional, transformer)]

    def epoch() -> None:
        for first in range(0, len(digits) - 127, 128):
            x, y = digits[first : first + 128], digit_labels[first : first + 128]
            step(perceptron, lambda x=x, y=y: F.cross_entropy(perceptron(x), y), optimisers[0])

    def image_loss() -> torch.Tensor:
        return F.cross_entropy(convolutional(images), image_labels)

    def token_loss() -> torch.Tensor:
        return transformer(tokens).square().mean()

    return {
        "MLP epoch 6000": epoch,
        "CNN forward b64": lambda: forward(convolutional, images),
        "CNN training step b64": lambda: step(convolutional, image_loss, optimisers[1]),
        "transformer forward": lambda: forward(transformer, tokens),
        "transformer forward+backward": lambda: step(transformer, token_loss, None),
        "transformer training step": lambda: step(transformer, token_loss, optimisers[2]),
    }


def median_ms(case: Case) -> float:
    """The median of a case's runs within `SECONDS`, the first of which doesn't count."""
    case()
    times, start = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        case()
        times.append((time.perf_counter() - before) * 1e3)
    return statistics.median(times)


def bench_ms(binary: Path, case: str, side: str, environment: dict[str, str]) -> float:
    """What the bench says of a case, of one side."""
    command = [str(binary), "--case", case, "--side", side]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for line in run.stdout.splitlines():
        name, *figures = line.rsplit(None, 4)
        if name.strip() == case:
            return float(figures[0 if side == "ours" else 1])
    raise SystemExit(f"{binary} knows no case {case!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", default="")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stock = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    sides = {"ours": stock if arguments.plain else {**stock, **SETTINGS}, "candle": stock}

    known = elementwise() | rowwise() | images() | training()
    cases = {name: case for name, case in known.items() if arguments.case in name}
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, ms\n")
    print("| case | torch | ours | candle | ours/torch | candle/torch |\n|---|---|---|---|---|---|")
    for name, case in cases.items():
        figures: dict[str, list[float]] = {"torch": [], "ours": [], "candle": []}
        for _ in range(arguments.rounds):
            figures["torch"].append(median_ms(case))
            for side, environment in sides.items():
                figures[side].append(bench_ms(arguments.binary, name, side, environment))
        torch_ms, ours, candle = (statistics.median(times) for times in figures.values())
        row = f"{torch_ms:.4g} | {ours:.4g} | {candle:.4g} | **{ours / torch_ms:.2f}** | {candle / torch_ms:.2f}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
