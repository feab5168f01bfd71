"""What rustc itself costs a cell: the compile server with almost nothing to compile, and the linker.

    python tests/bench/floor.py RUNTIME [--rounds 25]

RUNTIME is a built runtime (`alephlab-kernel template`). Starts the server as the kernel does, and compiles an empty
function (the floor), and by turns what the kernel makes of three cells. Medians in ms.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = [
    "--crate-name=cell", "--crate-type=cdylib", "--emit=obj=cell.o", "--edition=2024", "-Cprefer-dynamic",
    "-Ccodegen-units=1", "-Cdebuginfo=0", "-Cdebug-assertions=on", "-Coverflow-checks=on", "-Cembed-bitcode=no",
    "-Csymbol-mangling-version=v0", "--error-format=json", "-Awarnings", "-Copt-level=0",
]  # fmt: skip
HEADER = "#![allow(warnings)]\nextern crate alephlab_cell;\n"
ENTRY = '#[unsafe(no_mangle)] pub extern "C-unwind" fn alephlab_cell_entry() -> ::alephlab_cell::Done {\n'
END = "::alephlab_cell::Done(0)\n}\n"
USE = "use ::alephlab_cell::EvcxrDisplay as _;\n"
LINK = ["-shared", "--eh-frame-hdr", "-Bsymbolic", "--build-id=none", "-z", "noexecstack", "-z", "noseparate-code"]
# What the kernel generates; `N` is another number each time.
CELLS = {
    "an empty function": '#[unsafe(no_mangle)] pub extern "C" fn f() {}\n',
    'println!("{}", N)': USE + ENTRY + 'println!("{}", N);\n' + END,
    "1 + N": USE + ENTRY + "::alephlab_cell::Shown(::alephlab_cell::Rare(&(1 + N\n))).evcxr_display();\n" + END,
    "let x = N": USE + ENTRY + 'let x = N;\n::alephlab_cell::put::<_, 0>("x", x);\n' + END,
}


class Server:
    """rustc as a fork server: `kernel/zygote`."""

    def __init__(self, runtime: Path, folder: Path) -> None:
        self.folder, self.count = folder, 0
        cell_lib = next(runtime.glob("evcxr/target/*/debug/deps/libalephlab_cell.so"))
        toolchain = ["rustup", "which", "rustc"]
        rustc = subprocess.run(toolchain, cwd=runtime, capture_output=True, text=True, check=True).stdout.strip()
        (folder / "z.rs").write_text(HEADER + "alephlab_zygote::cells! {}\n")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "socket"))
        listener.listen()
        crates = [
            "--extern", f"alephlab_cell={cell_lib}", "--extern", f"alephlab_zygote={runtime / 'libalephlab_zygote.so'}",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [rustc, *FLAGS, *crates, "z.rs"], cwd=folder, stdin=listener.fileno(), stdout=subprocess.PIPE,
            env={**os.environ, "ALEPHLAB_ZYGOTE": "1"},
        )  # fmt: skip
        listener.close()

    def compile(self, text: str) -> tuple[float, Path]:
        """Seconds of one compile, and the folder that the object is in."""
        self.count += 1
        folder = self.folder / f"c{self.count}"
        folder.mkdir()
        (folder / "cell.rs").write_text(text)
        started = time.perf_counter()
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(self.folder / "socket"))
            stream.sendall(f"{folder}\n".encode())
            said = b""
            while chunk := stream.recv(65536):
                said += chunk
        took = time.perf_counter() - started
        if not (folder / "cell.o").exists():
            raise RuntimeError(said.decode())
        return took, folder


def link(folder: Path) -> float:
    """Seconds of the linker."""
    started = time.perf_counter()
    subprocess.run(["ld", *LINK, "-o", folder / "cell.so", folder / "cell.o"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(asked.runtime.resolve(), Path(folder))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in CELLS}
        server.compile(CELLS["an empty function"])
        for number in range(asked.rounds):
            for name, text in CELLS.items():
                compiling, made = server.compile(text.replace("N", str(1000 + number)))
                times[name].append((compiling, link(made)))
        server.process.kill()
        server.process.wait()
    floor = None
    for name, values in times.items():
        compiling, linking = (statistics.median(one) * 1e3 for one in zip(*values, strict=True))
        floor = floor or compiling + linking
        total = compiling + linking
        print(f"{name:20} compile {compiling:5.1f}  link {linking:4.1f}  = {total:5.1f} ms, {total / floor:.2f}x the floor")


if __name__ == "__main__":
    main()
