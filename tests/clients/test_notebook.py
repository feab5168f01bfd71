"""`nbclient` runs the quickstart notebook locally, through the installed kernelspec."""

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from support import ROOT


def outputs_of(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_nbclient_runs_the_quickstart_notebook(kernel_for_stack: str, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, startup_timeout=60, kernel_name=kernel_for_stack,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()  # fmt: skip
    nbformat.validate(notebook)
    text = "".join(output.get("text", "") for output in outputs_of(notebook))
    result = json.loads(text.split("ALEPHLAB_RESULT", 1)[1].splitlines()[0])
    assert result["accuracy"] >= 0.97
    mimes = {mime for output in outputs_of(notebook) for mime in output.get("data", {})}
    assert mimes & {"image/png", "image/svg+xml"}


def test_nbclient_runs_the_notebook_of_many_crates(installed_kernel: str, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "crates.ipynb", as_version=4)
    # Its first cell builds crates, and downloads those that nobody has used here yet.
    NotebookClient(
        notebook, timeout=600, kernel_name=installed_kernel, resources={"metadata": {"path": str(tmp_path)}},
    ).execute()  # fmt: skip
    text = "".join(output.get("text", "") for output in outputs_of(notebook))
    assert "y = 3.0 x + 2.0" in text
    shown = [output["data"] for output in outputs_of(notebook) if "data" in output]
    assert any('"x":' in data.get("text/plain", "").replace("\\", "") for data in shown)
    assert any("<svg" in data.get("image/svg+xml", "") for data in shown)


def test_failing_cell_stops_nbclient(installed_kernel: str) -> None:
    cells = ["let v: Vec<i32> = vec![1];", "v[7]", 'println!("never");']
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    try:
        NotebookClient(notebook, timeout=120, kernel_name=installed_kernel).execute()
    except CellExecutionError as error:
        assert error.ename == "Panic"
        assert "index out of bounds" in error.evalue
    else:
        raise AssertionError("a panicking cell counted as success")
    assert notebook.cells[2].outputs == []
