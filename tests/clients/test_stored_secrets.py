"""Secrets of an account, from the command to the cell: read by name, and in no file, argument or environment of ours."""

import json
import secrets
import subprocess
from pathlib import Path

import psutil

from support import ALEPHLAB, Stack, run_alephlab
from test_cli import notebook

NAME = "CLIENT_TEST_KEY"


def secret(stack: Stack, *arguments: str, given: str = "") -> str:
    """Runs `alephlab secret`, with something on its standard input, and gives what it printed."""
    command = [ALEPHLAB, "secret", *arguments, "--data", stack.data]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(stack: Stack, folder: Path, *cells: str) -> tuple[int, list, str]:
    """Runs a notebook on a kernel of the gateway: status, the outputs, and all that the file holds."""
    path = notebook(folder, *cells)
    done = run_alephlab("run", path, "--data", stack.data)
    text = path.read_text()
    outputs = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", [])]
    return done.returncode, outputs, text + done.stdout + done.stderr


def test_a_cell_reads_a_secret_that_is_written_down_nowhere(stack: Stack, tmp_path: Path) -> None:
    value = secrets.token_hex(32)
    told = secret(stack, "set", NAME, given=f"{value}\n")
    assert "who runs that gateway can read it" in told and value not in told
    status, outputs, written = ran(
        stack,
        tmp_path,
        f'let key = secret("{NAME}")?;\nstd::fs::write("read.txt", key.expose())?;',
        'println!("{key:?}");',
        "key",
    )
    assert status == 0, written
    # A cell writes in its account's folder only.
    (place,) = (stack.data / "work").glob("*/read.txt")
    assert place.read_text() == value
    place.unlink()
    shown = "".join("".join(one.get("text", "")) for one in outputs)
    assert f"Secret({NAME})" in shown
    assert f"Secret {NAME}, whose value is not shown" in written
    assert value not in written
    listed = secret(stack, "list")
    assert NAME in listed and "last read never" not in listed and value not in listed

    for path in stack.data.rglob("*"):
        if path.is_file():
            assert value.encode() not in path.read_bytes(), path
    root = psutil.Process(stack.process.pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            assert value not in " ".join([*process.cmdline(), *process.environ().values()]), process
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            pass
    secret(stack, "remove", NAME)


def test_a_secret_that_is_not_there_is_told_with_the_command_that_adds_it(stack: Stack, tmp_path: Path) -> None:
    status, _, written = ran(stack, tmp_path, 'secret("NOT_THERE")?;')
    assert status != 0
    assert "has no secret NOT_THERE" in written
    assert "alephlab secret set NOT_THERE" in written and "/settings/secrets" in written


def test_a_value_is_never_an_argument(stack: Stack) -> None:
    done = run_alephlab("secret", "set", NAME, "a-value", "--data", stack.data)
    assert done.returncode == 2
    assert NAME not in secret(stack, "list")
