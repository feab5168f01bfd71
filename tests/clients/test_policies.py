"""What an owner asks of hosts, from the command to the cell: refusals, a shorter term, and the warning before its end."""

import json
import re
from pathlib import Path

import pytest

from support import Stack, run_alephlab
from test_cli import notebook
from test_dataset import address, dataset, tried

# The first account of `quickstart`, whose own kernels open its datasets without a question.
OWNER = "owner"


@pytest.fixture
def asked(stack: Stack, tmp_path: Path):
    """A dataset; calling it asks something of hosts and gives what a mount says then."""
    folder = tmp_path / "asked"
    folder.mkdir()
    (folder / "a.txt").write_text("readable")
    dataset(stack, "put", folder)
    own = json.loads(dataset(stack, "show", "asked", "--json"))["owner"]

    def mounted(*flags: str) -> tuple[str, str]:
        granted = dataset(stack, "grant", "asked", own, *flags)
        # The thread that warns writes after `mount` has returned.
        code = """let data = mount("asked")?;
println!("{}", std::fs::read_to_string(data.path().join("a.txt"))?);
std::thread::sleep(std::time::Duration::from_millis(500));"""
        path = notebook(tmp_path, code)
        run_alephlab("run", path, "--data", stack.data)
        outputs = json.loads(path.read_text())["cells"][0]["outputs"]
        return granted, "".join(
            "".join(one.get("text", one.get("traceback", ""))) for one in outputs
        )

    return mounted


def test_dataset_opens_only_where_its_owner_allows_it(stack: Stack, asked) -> None:
    for flag, lacking in (("attested", "the host is not attested"), ("other-user", "the wall other-user is missing")):
        granted, said = asked("--require", flag)
        assert "asked of hosts" in granted
        assert "readable" not in said
        assert "policy does not allow this host" in said and lacking in said, said
        assert "ask the owner" in said, said
    _, said = asked("--require", "no-core-dump", "--require", "undumpable")
    assert "readable" in said
    asks = "asked of hosts: the wall no-core-dump, the wall undumpable"
    assert asks in dataset(stack, "readers", "asked")
    # Granting again asks the same, unless it is said that nothing is asked.
    granted, _ = asked("--expires", "30d")
    assert asks in granted
    granted, said = asked("--any-host")
    assert "asked of hosts" not in granted and "readable" in said


def test_cell_is_warned_before_a_short_term_ends(asked) -> None:
    granted, said = asked("--max-term", "20m")
    assert "at most 20 minutes at a time" in granted
    assert "readable" in said
    assert re.search(r'`asked@1` can be read for (19|20) more minutes: mount\("asked@1"\) asks', said), said


def test_unknown_wall_is_refused_with_those_that_there_are(stack: Stack, asked) -> None:
    done = tried(stack, "grant", "asked", address(stack, "reader"), "--require", "moat")
    assert done.returncode == 2
    assert "no-swap" in done.stderr and "attested" in done.stderr
