"""What several client tests need: where things are, a running stack, and waiting on conditions."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("ALEPHLAB_PROGRAMS", ROOT / "target" / "release"))
ALEPHLAB = PROGRAMS / "alephlab"
# Names under which distributions install the debugger; the kernel looks for the same.
LLDB_DAP = ["lldb-dap", "lldb-dap-22", "lldb-dap-21", "lldb-dap-20", "lldb-dap-19", "lldb-dap-18"]
HAS_DEBUGGER = any(map(shutil.which, LLDB_DAP))
# Debian's, or another's; tests of pages are skipped without.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def wait_until(condition: Callable[[], bool], seconds: float, what: str, ignoring: type = ()) -> None:
    """Waits for `condition`, asking again quickly, until it holds or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        try:
            if condition():
                return
        except ignoring:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        pause.wait(0.05)


def run_alephlab(*arguments: object, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    """Runs the command to its end and keeps what it printed."""
    return subprocess.run(
        [ALEPHLAB, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def installed(packages: Path, into: Path) -> Path:
    """A copy of a folder's files with the npm packages that it lists beside them, installed once for each list."""
    into.mkdir(parents=True, exist_ok=True)
    wanted = (packages / "package-lock.json").read_text()
    done = into / "done"
    if not done.exists() or done.read_text() != wanted:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(packages / name, into)
        # What a package would run when it is installed is not needed by any of them.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=into, check=True, timeout=300)
        done.write_text(wanted)
    for program in packages.glob("*.mjs"):
        shutil.copy(program, into)
    return into


@dataclass
class Stack:
    """A running `alephlab quickstart`: node, gateway, this machine as host, a shared model."""

    data: Path
    process: subprocess.Popen
    result: dict = field(default_factory=dict)

    @property
    def gateway_url(self) -> str:
        return self.result["gateway_url"]

    @property
    def aleph_url(self) -> str:
        return self.result["aleph_url"]

    @property
    def token(self) -> str:
        """The first account's gateway token, from the 0600 file of the running command."""
        return json.loads((self.data / "run.json").read_text())["token"]


def serving(command: list[str], data: Path, log: Path, before: Sequence[object] = ()) -> Stack:
    """Starts a command that serves, on `data`, behind the words `before`, and waits until it says so in JSON."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*map(str, before), ALEPHLAB, *command, "--data", data, "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    for line in process.stdout:
        if line.startswith("{"):
            return Stack(data=data, process=process, result=json.loads(line))
    raise AssertionError(f"{command[0]} ended with {process.wait()}:\n{log.read_text()}")


def start_stack(data: Path, log: Path) -> Stack:
    """Starts `quickstart` on `data` and waits until its job is done and it serves."""
    return serving(["quickstart"], data, log)


def up(data: Path, log: Path, before: Sequence[object] = ()) -> Stack:
    """Starts `alephlab up` on `data` and waits until it serves."""
    return serving(["up"], data, log, before)


def stop_stack(stack: Stack) -> None:
    stack.process.terminate()
    stack.process.wait(60)
