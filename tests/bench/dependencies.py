"""Which well-known crates a notebook can bring in by `:dep`: resolves each against a built runtime template, and says what
features of the runtime's own crates it wants that the template was not built with. Those belong into
`runtime/features/Cargo.toml`. Builds nothing.

    python tests/bench/dependencies.py TEMPLATE ['polars = "*"' ...]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

WELL_KNOWN = [
    'polars = "*"', 'polars = { version = "*", features = ["lazy", "csv", "parquet", "fmt"] }',
    'arrow = { version = "*", features = ["prettyprint"] }', 'parquet = "*"', 'datafusion = "*"', 'csv = "*"',
    'ndarray = "*"', 'nalgebra = "*"', 'num = "*"', 'statrs = "*"', 'linfa = "*"', 'petgraph = "*"', 'image = "*"',
    'plotly = "*"', 'plotters = "*"', 'candle-transformers = "*"', 'hf-hub = "*"', 'tokenizers = "*"', 'safetensors = "*"',
    'half = { version = "*", features = ["serde"] }', 'serde = { version = "*", features = ["derive"] }', 'serde_json = "*"',
    'reqwest = { version = "*", features = ["json"] }', 'ureq = "*"', 'tokio = { version = "1", features = ["full"] }',
    'futures = "*"', 'sqlx = { version = "*", features = ["sqlite", "runtime-tokio"] }', 'rayon = "*"', 'rand = "*"',
    'chrono = "*"', 'time = "*"', 'regex = "*"', 'itertools = "*"', 'anyhow = "*"', 'clap = "*"', 'rust_decimal = "*"',
    'uuid = { version = "*", features = ["v4"] }',
]  # fmt: skip


def packages(folder: Path) -> dict[tuple[str, str], set[str]]:
    """Features of the packages that a manifest's library is built from, by name and version."""
    command = ["cargo", "metadata", "--format-version=1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    known = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

    def is_macro(package: str) -> bool:
        return any("proc-macro" in target["kind"] for target in known[package]["targets"])

    seen: set[str] = set()
    waiting = [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package in seen or is_macro(package):
            continue
        seen.add(package)
        built = (dep for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"]))
        waiting.extend(dep["pkg"] for dep in built)
    return {(known[one]["name"], known[one]["version"]): set(nodes[one]["features"]) for one in seen}


def main() -> int:
    template = Path(sys.argv[1]).absolute()
    runtime = packages(template / "evcxr")
    refused = 0
    for line in sys.argv[2:] or WELL_KNOWN:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "src").mkdir()
            (folder / "src/lib.rs").touch()
            (folder / "Cargo.lock").write_bytes((template / "evcxr/Cargo.lock").read_bytes())
            (folder / "Cargo.toml").write_text(
                '[package]\nname = "x"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\n'
                f'alephlab = {{ path = "{template}/source/runtime" }}\n{line}\n'
            )
            wanted = packages(folder)
        missing = {
            " ".join(package): sorted(wanted[package] - runtime[package])
            for package in wanted.keys() & runtime.keys()
            if wanted[package] != runtime[package]
        }
        refused += bool(missing)
        print("refused" if missing else "fits   ", line, missing or "", flush=True)
    return refused


if __name__ == "__main__":
    raise SystemExit(main())
