"""Which well-known crates a notebook can bring in by `:dep`: resolves each against a built runtime template, and says what
features of the runtime's own crates it wants that the template was not built with. Those belong into
`runtime/features/Cargo.toml`. Builds nothing.

    python tests/bench/dependencies.py TEMPLATE ['polars = "*"' ...]
"""

import hashlib
import json
import os
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
    'uuid = { version = "*", features = ["v4"] }', 'axum = "*"', 'burn = "*"', 'smartcore = "*"', 'scraper = "*"', 'toml = "*"',
    'rusqlite = { version = "*", features = ["bundled"] }', 'argmin = "*"', 'ratatui = "*"', 'rig-core = "*"', 'tch = "*"',
]  # fmt: skip


# (name, version, True for what runs on the compiling machine: macros, build scripts and their crates)
Package = tuple[str, str, bool]


class Units:
    """What cargo would compile for a manifest: its unit graph, with a digest of all that each unit is built from."""

    def __init__(self, folder: Path) -> None:
        command = ["cargo", "build", "--unit-graph", "-Z", "unstable-options", "--target", "x86_64-unknown-linux-gnu"]
        # The unit graph is unstable; `cargo metadata` has one set of features for macros and programs.
        environment = os.environ | {"RUSTC_BOOTSTRAP": "1"}
        answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
        graph = json.loads(answer.stdout)
        self.units = graph["units"]
        self.digests: dict[int, str] = {}
        self.root = graph["roots"][0]

    def package(self, unit: int) -> Package:
        """`registry+https://…#name@version` or `path+file://…/name#version`."""
        place, _, last = self.units[unit]["pkg_id"].rpartition("#")
        name, _, version = last.rpartition("@")
        return (name or place.rpartition("/")[2], version, self.units[unit]["platform"] is None)

    def digest(self, unit: int) -> str:
        if unit not in self.digests:
            own = self.units[unit]
            parts = [*self.package(unit), own["target"]["name"], own["mode"], *sorted(own["features"])]
            parts += sorted(self.digest(one["index"]) for one in own["dependencies"])
            self.digests[unit] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.digests[unit]

    def libraries(self) -> dict[Package, int]:
        """All libraries and macros; of those built twice for one platform, any."""
        graph = (unit for unit in range(len(self.units)) if unit != self.root)
        return {self.package(unit): unit for unit in graph if self.units[unit]["mode"] == "build" and not self.is_script(unit)}

    def is_script(self, unit: int) -> bool:
        return "custom-build" in self.units[unit]["target"]["kind"]

    def features(self, unit: int) -> set[str]:
        return set(self.units[unit]["features"])


def missing(runtime: Units, wanted: Units) -> dict[str, list[str]]:
    """Features that would make `wanted` build the runtime's crates as they are; empty when it does already."""
    ours, theirs = runtime.libraries(), wanted.libraries()
    linked = [package for package in ours.keys() & theirs.keys() if not package[2]]
    if all(runtime.digest(ours[package]) == wanted.digest(theirs[package]) for package in linked):
        return {}
    return {
        f"{name} {version}{' (macros)' if on_host else ''}": lacking
        for name, version, on_host in sorted(ours.keys() & theirs.keys())
        if (
            lacking := sorted(
                wanted.features(theirs[name, version, on_host]) ^ runtime.features(ours[name, version, on_host])
            )
        )
    } or {"?": ["other crates below one of the runtime's"]}


def main() -> int:
    template = Path(sys.argv[1]).absolute()
    runtime = Units(template / "evcxr")
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
            lacking = missing(runtime, Units(folder))
        refused += bool(lacking)
        print("refused" if lacking else "fits   ", line, lacking or "", flush=True)
    return refused


if __name__ == "__main__":
    raise SystemExit(main())
