"""V6 with the scanners that other people make: each catches what it should, says its version, and counts only if it looked at all."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hub_steps_data import CARD, safetensors
from support import ALEPHLAB

PICKLESCAN, MODELSCAN = (str(Path(sys.executable).with_name(name)) for name in ("picklescan", "modelscan"))
CLAMSCAN = shutil.which("clamscan")
# Written so that this file is no virus to a scanner that reads it.
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(safetensors(2, 1 << 10))
    return root


def v6(folder: Path, *arguments: str, path: str = "/nonexistent") -> dict:
    command = [ALEPHLAB, "model", "verify", "--in", folder, "--json", *arguments]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return next(check for check in json.loads(done.stdout)["checks"] if check["id"] == "V6")


def scanners(*programs: str) -> list[str]:
    return [part for program in programs for part in ("--scanner", program)]


def tools(check: dict) -> dict[str, dict]:
    return {tool["name"]: tool for tool in check["tools"]}


def why(check: dict) -> str:
    return " ".join(finding["why"] for finding in check["findings"])


def test_two_scanners_pass_and_one_does_not(folder: Path) -> None:
    both = v6(folder, *scanners(PICKLESCAN))
    assert both["outcome"] == "passed", both
    assert tools(both)["picklescan"] == {"name": "picklescan", "version": version("picklescan"), "outcome": "passed"}
    alone = v6(folder)
    assert alone["outcome"] == "not_run" and "1 of the 2 scanners" in why(alone)
    assert any("pipx install picklescan" in finding["hint"] for finding in alone["findings"])
    # Those on PATH are found without being named.
    found = v6(folder, path=f"{Path(PICKLESCAN).parent}:/usr/bin:/bin")
    assert found["outcome"] == "passed" and {"picklescan", "modelscan"} <= set(tools(found))


def test_a_malicious_pickle_is_caught_under_any_name(folder: Path) -> None:
    for name in ("model.safetensors", "vocab.txt"):
        (folder / name).write_bytes(pickle.dumps(Malicious()))
        check = v6(folder, *scanners(PICKLESCAN))
        assert check["outcome"] == "failed" and f"`{name}` is flagged by picklescan" in why(check), check
        (folder / name).write_bytes(safetensors(2, 1 << 10) if name.endswith("s") else b"a\n")


def test_a_scanner_that_passes_over_files_finds_and_does_not_count(folder: Path) -> None:
    clean = v6(folder, *scanners(MODELSCAN))
    assert clean["outcome"] == "not_run" and "does not know" in why(clean)
    assert tools(clean)["modelscan"]["version"].endswith(version("modelscan"))
    (folder / "weights.pkl").write_bytes(pickle.dumps(Malicious()))
    check = v6(folder, *scanners(MODELSCAN))
    assert check["outcome"] == "failed" and "`weights.pkl` is flagged by modelscan" in why(check), check


@pytest.mark.skipif(CLAMSCAN is None, reason="ClamAV is missing: apt-get install clamav")
def test_clamav_catches_what_its_database_knows_and_says_which_that_is(folder: Path, tmp_path: Path) -> None:
    # Its makers' database is not to be had everywhere; a signature of one's own is a database, too.
    database = tmp_path / "own.ndb"
    database.write_text(f"Eicar.Test:0:*:{EICAR.encode().hex()}\n")
    with_own = [*scanners(CLAMSCAN), "--clamav-database", str(database)]
    clean = v6(folder, *with_own)
    assert clean["outcome"] == "passed", clean
    said = tools(clean)["clamav"]["version"]
    assert said.startswith("ClamAV ") and ", 1 signatures, database " in said, said
    (folder / "vocab.txt").write_text(EICAR)
    check = v6(folder, *with_own)
    assert check["outcome"] == "failed" and "`vocab.txt` is flagged by clamav" in why(check) and "Eicar" in why(check)
    (tmp_path / "none").mkdir()
    without = v6(folder, *scanners(CLAMSCAN), "--clamav-database", str(tmp_path / "none"))
    assert tools(without)["clamav"]["outcome"] == "not_run" and "no database" in why(without)
