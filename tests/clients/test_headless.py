"""Clients without a window: papermill ends with the notebook's failure, jupyter-console is used through its terminal."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pexpect
import pytest

KERNEL = "alephlab"
SECONDS = 90

pytestmark = pytest.mark.usefixtures("installed_kernel")


def papermill(folder: Path, *cells: str) -> tuple[subprocess.CompletedProcess, nbformat.NotebookNode]:
    """Runs a notebook of these cells; how the command ended, and what it wrote."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": KERNEL, "display_name": "Rust (Alephlab)", "language": "rust"}
    before, after = folder / "in.ipynb", folder / "out.ipynb"
    nbformat.write(book, before)
    command = [sys.executable, "-m", "papermill", before, after, "--no-progress-bar", "--log-level", "ERROR"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return done, nbformat.read(after, as_version=4)


def test_papermill_runs_a_notebook_to_its_end(tmp_path: Path) -> None:
    done, book = papermill(tmp_path, "let x = 20;", "progress(0..3).sum::<i32>() + x")
    assert done.returncode == 0, done.stderr
    assert book.cells[-1].outputs[-1].data["text/plain"] == "23"


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ('panic!("stop here")', "Panic"),
        ("let x: i32 = \"text\";", "CompileError"),
        ("std::process::exit(0)", "ChildDied"),
        ('std::fs::read("/nowhere/at/all")?;', "Error"),
    ],
)
def test_papermill_stops_at_a_failure_of_any_kind(tmp_path: Path, cell: str, name: str) -> None:
    done, book = papermill(tmp_path, "let before = 1;", cell, 'println!("never")')
    assert done.returncode != 0
    errors = [output for one in book.cells for output in one.get("outputs", []) if output.output_type == "error"]
    assert [error.ename for error in errors] == [name], errors
    assert "never" not in str([one.get("outputs") for one in book.cells])


def test_jupyter_console_shows_values_text_progress_history_and_asks_for_input(tmp_path: Path) -> None:
    env = {**os.environ, "ALEPHLAB__DATA__DIR": str(tmp_path / "data"), "TERM": "dumb"}
    command = ["-m", "jupyter_console", "--kernel", KERNEL, "--simple-prompt"]
    console = pexpect.spawn(sys.executable, command, env=env, encoding="utf-8", timeout=SECONDS, dimensions=(40, 120))
    console.expect(r"In \[1\]:")
    console.sendline("let x = 20; x + 1")
    console.expect(r"Out\[1\]: 21")
    console.sendline('for i in progress(0..3) { let _ = i; } println!("done");')
    console.expect_exact("100 %, 3 of 3")
    console.expect_exact("done")
    console.sendline('input("name? ")?')
    # What was typed comes back first.
    console.expect_exact('input("name? ")?')
    console.expect_exact("name? ")
    console.sendline("Ada")
    console.expect_exact('"Ada"')
    console.sendline('panic!("stop here")')
    console.expect(r"Panic.*stop here")
    console.expect(r"In \[5\]:")
    console.sendline("x * 2")
    console.expect(r"Out\[5\]: 40")
    console.expect(r"In \[6\]:")
    console.sendeof()
    console.expect_exact("exit")
    console.sendline("y")
    console.expect(pexpect.EOF)
