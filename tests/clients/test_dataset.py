"""Datasets between two accounts: put, grant, mount in the second one's notebook, revoke, refusal."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from support import ALEPHLAB, Stack, run_alephlab
from test_cli import notebook, refused

SECONDS = 120
# The second account of `quickstart`.
READER = "reader"


def dataset(stack: Stack, *arguments: object, account: str | None = None) -> str:
    """What a `dataset` command prints; it must succeed."""
    done = tried(stack, *arguments, account=account)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(stack: Stack, *arguments: object, account: str | None = None):
    chosen = ["--account", account] if account else []
    return run_alephlab("dataset", *arguments, "--data", stack.data, *chosen)


def address(stack: Stack, account: str) -> str:
    return run_alephlab("wallet", "address", account, "--data", stack.data).stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "measures"
    (root / "deep/er").mkdir(parents=True)
    (root / "table.csv").write_text("a,b\n1,2\n3,4\n")
    (root / "deep/er/größe 1.bin").write_bytes(bytes(range(256)) * 4000)
    (root / "empty.txt").write_bytes(b"")
    # One red place, as PNG and in a folder of its own.
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c494441"
        "54789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
    for name in ("red", "also"):
        (root / f"{name}.png").write_bytes(png)
    return root


@pytest.fixture
def keys(stack: Stack) -> Iterator[pexpect.spawn]:
    """`alephlab keys` of the second account at a terminal, as a person runs it."""
    command = ["keys", "--account", READER, "--data", str(stack.data)]
    running = pexpect.spawn(str(ALEPHLAB), command, encoding="utf-8", timeout=SECONDS, dimensions=(40, 160))
    running.logfile_read = sys.stdout
    running.expect("answer http")
    yield running
    running.sendintr()
    running.expect(pexpect.EOF)


def test_a_dataset_is_granted_mounted_by_the_reader_and_revoked(
    stack: Stack, folder: Path, tmp_path: Path, keys: pexpect.spawn
) -> None:
    done = tried(stack, "put", folder, "--json", "--licence", "CC0-1.0")
    # 25 MiB are paid for each object, and said before anything is sealed.
    assert re.search(r"price: at most 4 objects: 2\d\.\d credits an hour, 0\.0\d+ USD", done.stderr), done.stderr
    put = json.loads(done.stdout)
    assert (put["name"], put["version"], put["files"]) == ("measures", 1, 5)
    reader, owner = address(stack, READER), json.loads(dataset(stack, "show", "measures", "--json"))["owner"]
    theirs = f"{owner}/measures"
    assert "granted no dataset" in refused(tried(stack, "show", theirs, account=READER))

    assert theirs in dataset(stack, "grant", "measures", reader)
    listed = [json.loads(line)["name"] for line in dataset(stack, "ls", "--json", account=READER).splitlines()]
    assert listed == [theirs]
    got = tmp_path / "got"
    dataset(stack, "get", theirs, got, account=READER)
    assert {str(path.relative_to(got)): path.read_bytes() for path in got.rglob("*") if path.is_file()} == {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }

    # In a notebook of the reader's, after their consent. Plain std::fs, no word of ours behind `mount`.
    code = f'''let data = mount("{theirs}")?; println!("{{}}", std::fs::read_to_string(data.path().join("table.csv"))?);
let rows: usize = data.batches("table.csv", "b", 1, None)?.map(|batch| batch.map_or(0, |batch| batch.len())).sum();
let pictures = data.images("")?;
println!("{{rows}} rows, {{}} pictures of {{:?}}", pictures.len(), pictures.batches(2, None).next().unwrap()?.inputs.dims());
mounts()?'''
    running = pexpect.spawn(
        str(ALEPHLAB), ["run", str(notebook(tmp_path, code)), "--account", READER, "--data", str(stack.data)],
        encoding="utf-8", timeout=SECONDS,
    )  # fmt: skip
    keys.expect_exact(f"a kernel wants to open {theirs}")
    keys.expect("version  1 of")
    keys.expect("allow")
    keys.sendline("y")
    running.expect(pexpect.EOF)
    running.close()
    outputs = json.loads((tmp_path / "notebook.ipynb").read_text())["cells"][0]["outputs"]
    printed = "".join(line for one in outputs if one["output_type"] == "stream" for line in one["text"])
    assert running.exitstatus == 0 and "a,b\n1,2\n3,4\n" in printed, (running.before, outputs)
    assert "2 rows, 2 pictures of [2, 3, 1, 1]" in printed
    shown = "".join(next(one["data"]["text/plain"] for one in outputs if one["output_type"] == "execute_result"))
    assert f"{theirs}, version 1" in shown and "more hours" in shown and "same user" in shown, shown

    # The next version is the reader's too, without another grant.
    (folder / "table.csv").write_text("a,b\n5,6\n")
    assert json.loads(dataset(stack, "put", folder, "--json"))["version"] == 2
    shown = json.loads(dataset(stack, "show", theirs, "--json", account=READER))
    assert (shown["version"], shown["licence"]) == (2, "CC0-1.0")
    versions = dataset(stack, "versions", theirs, "--json", account=READER).splitlines()
    assert [json.loads(line)["version"] for line in versions] == [1, 2]

    revoked = json.loads(dataset(stack, "revoke", "measures", reader, "--json"))
    assert (revoked["version"], revoked["epoch"]) == (3, 2) and revoked["uploaded"] < 100_000
    readers = dataset(stack, "readers", "measures", "--json").splitlines()
    assert [json.loads(line)["is_owner"] for line in readers] == [True]
    for name in [theirs, f"{theirs}@1", f"{owner}/{put['dataset_id']}"]:
        sentence = refused(tried(stack, "ls", name, account=READER))
        assert re.search("ended this account's grant|no grant for this machine", sentence)
    assert "whole" in dataset(stack, "verify", "measures", "--json")


def test_a_notebook_uploads_a_folder_that_its_account_then_owns(
    stack: Stack, tmp_path: Path, keys: pexpect.spawn
) -> None:
    code = """std::fs::create_dir_all("rain/2026")?;
std::fs::write("rain/2026/days.csv", "a,b\\n1,2\\n")?;
display(&Upload::of("rain").description("mm a day").licence("CC0-1.0").send()?);
let data = mount("rain@1")?;
println!("{:?} {}", data.files()?, std::fs::read_to_string(data.file("2026/days.csv")?)?);"""
    running = pexpect.spawn(
        str(ALEPHLAB), ["run", str(notebook(tmp_path, code)), "--account", READER, "--data", str(stack.data)],
        encoding="utf-8", timeout=SECONDS,
    )  # fmt: skip
    # One question for the upload, with what is uploaded and what it costs; another for opening it.
    keys.expect("a kernel wants to upload [^\n]*rain")
    keys.expect("uploads  1 file, 8 bytes")
    keys.expect(r"price    at most 4 objects: [0-9.]+ credits an hour")
    keys.expect("allow")
    keys.sendline("y")
    keys.expect("asked as rain@1")
    keys.expect("allow")
    keys.sendline("y")
    running.expect(pexpect.EOF)
    running.close()
    outputs = json.loads((tmp_path / "notebook.ipynb").read_text())["cells"][0]["outputs"]
    printed = "".join(line for one in outputs if one["output_type"] == "stream" for line in one["text"])
    assert running.exitstatus == 0 and '["2026/days.csv"] a,b\n1,2\n' in printed, (running.before, outputs)
    shown = "".join("".join(one["data"]["text/plain"]) for one in outputs if one["output_type"] == "display_data")
    assert "rain, version 1" in shown and 'mount("rain@1")?' in shown, shown

    # At a terminal it is a dataset like any other.
    shown = json.loads(dataset(stack, "show", "rain", "--json", account=READER))
    assert (shown["version"], shown["licence"], shown["description"]) == (1, "CC0-1.0", "mm a day"), shown
    dataset(stack, "get", "rain", tmp_path / "got", account=READER)
    assert (tmp_path / "got" / "2026" / "days.csv").read_text() == "a,b\n1,2\n"
    assert "whole" in dataset(stack, "verify", "rain", "--json", account=READER)


def test_what_cannot_be_done_is_said_in_one_sentence(stack: Stack, folder: Path, tmp_path: Path) -> None:
    refused(tried(stack, "put", tmp_path / "missing"), "missing")
    refused(tried(stack, "put", folder, "--name", "a b"), "name of a dataset")
    (folder / "link").symlink_to("/etc/passwd")
    refused(tried(stack, "put", folder), "link")
    (folder / "link").unlink()
    dataset(stack, "put", folder, "--name", "refusals")
    refused(tried(stack, "show", "refusals@9"), "version 9")
    refused(tried(stack, "show", "refusals@x"), "names no dataset")
    refused(tried(stack, "get", "refusals", folder), "there already")
    refused(tried(stack, "revoke", "refusals", address(stack, READER)), "holds no grant")
    stranger = run_alephlab("wallet", "new", "stranger", "--no-passphrase", "--data", stack.data).stdout.strip()
    refused(tried(stack, "grant", "refusals", stranger), "registered no reader key", "register-key")
    assert run_alephlab("wallet", "register-key", "stranger", "--data", stack.data).returncode == 0
    dataset(stack, "grant", "refusals", stranger, "--expires", "30d")


def stores(stack: Stack, owner: str) -> set[str]:
    """STOREs of an account that the node lists: what it pays for."""
    address = f"{stack.aleph_url}/api/v0/messages.json?msgTypes=STORE&addresses={owner}&pagination=200"
    with urllib.request.urlopen(address) as answer:
        return {message["item_hash"] for message in json.load(answer)["messages"]}


def test_what_is_forgotten_is_no_longer_paid_for_and_other_versions_and_datasets_stay(
    stack: Stack, folder: Path
) -> None:
    dataset(stack, "put", folder, "--name", "kept")
    owner = json.loads(dataset(stack, "show", "kept", "--json"))["owner"]
    others = stores(stack, owner)
    dataset(stack, "put", folder, "--name", "passing")
    (folder / "table.csv").write_text("a,b\n7,8\n")
    dataset(stack, "put", folder, "--name", "passing")
    both = stores(stack, owner)

    refused(tried(stack, "forget", "passing"), "all 2 versions of passing would be gone", "--yes")
    assert stores(stack, owner) == both
    done = json.loads(dataset(stack, "forget", "passing", "--older", "--yes", "--json"))
    assert done["versions"] == 1 and len(both - stores(stack, owner)) == done["objects"] > 0
    assert [json.loads(line)["version"] for line in dataset(stack, "versions", "passing", "--json").splitlines()] == [2]
    assert "whole" in dataset(stack, "verify", "passing", "--json")

    # At a terminal the name is typed.
    asked = pexpect.spawn(
        str(ALEPHLAB), ["dataset", "forget", "passing", "--data", str(stack.data)], encoding="utf-8", timeout=SECONDS
    )
    asked.expect("Type passing to go on: ")
    asked.sendline("something else")
    asked.expect("nothing was forgotten")
    asked.expect(pexpect.EOF)
    dataset(stack, "forget", "passing", "--yes")
    assert stores(stack, owner) == others
    assert "no dataset called" in refused(tried(stack, "show", "passing"))
    assert "whole" in dataset(stack, "verify", "kept", "--json")
    # The name is free again.
    assert json.loads(dataset(stack, "put", folder, "--name", "passing", "--json"))["version"] == 1


@pytest.fixture
def mounted_at(stack: Stack, folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    """`alephlab dataset mount` of a dataset, and where."""
    dataset(stack, "put", folder, "--name", "mounted-here")
    with mounting(stack, tmp_path / "here") as running:
        yield running, tmp_path / "here"


@contextmanager
def mounting(stack: Stack, place: Path) -> Iterator[subprocess.Popen]:
    command = [ALEPHLAB, "dataset", "mount", "mounted-here", place, "--json", "--data", stack.data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            line = running.stdout.readline()
            if not line:
                said = running.stderr.read()
                # Where this account may not mount, it is told what else it can do.
                assert "cannot be mounted" in said and "dataset get" in said, said
                pytest.skip("this account may not mount")
            assert json.loads(line)["folder"] == str(place.resolve())
            yield running
        finally:
            running.kill()
            running.wait(20)


def test_a_dataset_is_a_folder_of_this_machine_until_ctrl_c(
    stack: Stack, folder: Path, mounted_at: tuple[subprocess.Popen, Path]
) -> None:
    running, place = mounted_at
    for file in folder.rglob("*"):
        if file.is_file():
            assert (place / file.relative_to(folder)).read_bytes() == file.read_bytes(), file
    assert sorted(path.name for path in place.iterdir()) == ["also.png", "deep", "empty.txt", "red.png", "table.csv"]
    with pytest.raises(OSError):
        (place / "table.csv").write_text("x")
    used = tried(stack, "mount", "mounted-here", folder)
    assert used.returncode == 2 and "not empty" in used.stderr
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    assert not place.exists()


def test_a_mount_whose_command_was_killed_is_replaced(
    stack: Stack, mounted_at: tuple[subprocess.Popen, Path]
) -> None:
    running, place = mounted_at
    running.kill()
    running.wait(20)
    with mounting(stack, place) as again:
        assert (place / "table.csv").read_text() == "a,b\n1,2\n3,4\n"
        # Unmounted by somebody else, the command ends too.
        subprocess.run(["umount", place], check=True, timeout=20)
        assert again.wait(20) == 0
