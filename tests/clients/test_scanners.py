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
WALLS = "in bubblewrap without network" if shutil.which("bwrap") else "without a sandbox"
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


def test_one_scanner_does_not_pass_and_neither_do_those_that_cannot_read_the_files(folder: Path) -> None:
    alone = v6(folder)
    assert alone["outcome"] == "not_run" and "1 of the 2 scanners" in why(alone)
    assert any("apt-get install clamav" in finding["hint"] for finding in alone["findings"])
    # What is no pickle picklescan did not look through, whatever its exit code says.
    both = v6(folder, *scanners(PICKLESCAN))
    assert both["outcome"] == "not_run" and "does not know 3 of the 3 files" in why(both), both
    tool = tools(both)["picklescan"]
    assert (tool["outcome"], tool["version"]) == ("not_run", f"{version('picklescan')}, {WALLS}"), tool
    # Those on PATH are found without being named.
    found = v6(folder, path=f"{Path(PICKLESCAN).parent}:/usr/bin:/bin")
    assert {"picklescan", "modelscan"} <= set(tools(found))


def test_settings_in_the_folder_that_is_verified_are_not_taken(folder: Path, tmp_path: Path, monkeypatch) -> None:
    mark = tmp_path / "ran"
    (folder / "modelscan-settings.toml").write_text(f'[scanners]\n[middlewares]\n"os.system" = "touch {mark}"\n')
    monkeypatch.chdir(folder)
    # This is what a scanner does that starts here.
    subprocess.run([MODELSCAN, "scan", "--path", folder / "config.json"], capture_output=True, timeout=120)
    assert mark.exists(), "modelscan has changed: this test says nothing any more"
    mark.unlink()
    check = v6(Path("."), *scanners(MODELSCAN))
    assert tools(check)["modelscan"]["version"] and not mark.exists(), check


def test_a_malicious_pickle_is_caught_under_any_name(folder: Path) -> None:
    for name in ("model.safetensors", "vocab.txt"):
        (folder / name).write_bytes(pickle.dumps(Malicious()))
        check = v6(folder, *scanners(PICKLESCAN))
        assert check["outcome"] == "failed" and f"`{name}` is flagged by picklescan" in why(check), check
        assert "dangerous import" in why(check) and "posix system" in why(check), check
        (folder / name).write_bytes(safetensors(2, 1 << 10) if name.endswith("s") else b"a\n")


def test_a_pickle_that_breaks_after_its_import_is_caught(folder: Path) -> None:
    broken = b"cos\nsystem\n(S'true'\ntR.\xff\xff"
    (folder / "weights.pkl").write_bytes(broken)
    check = v6(folder, *scanners(PICKLESCAN))
    assert check["outcome"] == "failed" and "dangerous import" in why(check) and "os system" in why(check), check


def test_a_scanner_that_passes_over_files_finds_and_does_not_count(folder: Path) -> None:
    clean = v6(folder, *scanners(MODELSCAN))
    assert clean["outcome"] == "not_run" and "does not know" in why(clean)
    assert tools(clean)["modelscan"]["version"].endswith(f"{version('modelscan')}, {WALLS}")
    (folder / "weights.pkl").write_bytes(pickle.dumps(Malicious()))
    check = v6(folder, *scanners(MODELSCAN))
    assert check["outcome"] == "failed" and "`weights.pkl` is flagged by modelscan: Use of unsafe operator" in why(check), check


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
