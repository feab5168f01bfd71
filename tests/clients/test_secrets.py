"""What a dataset holds, and the keys that open it, are where they must be and nowhere else: searched in every file that the
stack wrote and in the memory of every process of it, while a cell has read the dataset."""

import json
import os
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import adc1_grants as grants
import psutil
import pytest
from jupyter_client.manager import KernelManager
from support import Stack, run_alephlab

WINDOW = 1 << 24


def memory_of(process: psutil.Process) -> Iterator[bytes]:
    """All that a process has written to its memory, in overlapping pieces."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(text, 16) for text in span.split("-"))
            for at in range(start, end, WINDOW):
                try:
                    memory.seek(at)
                    yield memory.read(min(WINDOW + 64, end - at))
                except OSError:
                    break


def files_under(folder: Path, since: float) -> Iterator[Path]:
    """Files written since then, of the same disk: what is mounted in it is not stored there."""
    device = folder.stat().st_dev
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.lstat(Path(root, name)).st_dev == device]
        paths = (Path(root, name) for name in names)
        yield from (path for path in paths if path.is_file() and path.stat().st_mtime >= since)


def found_in(pieces: Iterator[bytes], wanted: dict[str, bytes]) -> set[str]:
    found = set()
    for piece in pieces:
        found |= {name for name, secret in wanted.items() if secret in piece}
    return found


def epoch_secret(stack: Stack, name: str, key: grants.Key) -> bytes:
    """As somebody with the account's keys finds it, from what is public."""
    shown = run_alephlab("dataset", "show", name, "--json", "--data", stack.data)
    dataset = json.loads(shown.stdout)["dataset_id"]
    query = f"{stack.aleph_url}/api/v0/posts.json?types=aleph-dataset-grant&tags={dataset}"
    with urllib.request.urlopen(query) as answer:
        [post] = json.load(answer)["posts"]
    assert post["content"]["kem_id"] == grants.XWING
    return grants.open_grant(post["content"], key)


def started(*roots: int) -> dict[str, list[psutil.Process]]:
    """Processes of the stack and of the kernel, by their program and what it does."""
    named: dict[str, list[psutil.Process]] = {}
    for root in map(psutil.Process, roots):
        for process in [root, *root.children(recursive=True)]:
            does = process.cmdline()[1:2]
            named.setdefault(" ".join([Path(process.exe()).name, *does]), []).append(process)
    return named


# Every way that the system offers to look into another process, tried on every broker there is.
LOOKS = r"""
use std::io::Read;
let mut told = Vec::new();
for entry in std::fs::read_dir("/proc")?.flatten() {
    let process = entry.path();
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    if !name.starts_with("alephlab-broker") { continue; }
    for part in ["mem", "environ", "maps", "auxv", "fd", "root", "stack", "syscall"] {
        let path = process.join(part);
        let mut first = [0_u8; 1];
        // How many files it has open may be seen, not which, and nothing of them.
        let looked = if part == "fd" { std::fs::File::open(path.join("0")).map(|_| 1).or_else(|_| std::fs::read_link(path.join("0")).map(|_| 1)) }
            else if part == "root" { std::fs::read_link(&path).map(|_| 1) }
            else { std::fs::File::open(&path).and_then(|mut file| file.read(&mut first)) };
        // Brokers of other kernels may be ending: of those nothing is left to be seen.
        let gone = matches!(&looked, Err(error) if matches!(error.raw_os_error(), Some(2 | 3))) || (part == "maps" && matches!(looked, Ok(0)));
        if gone { continue; }
        told.push(format!("{part} {}", match looked { Ok(_) => "open".to_owned(), Err(error) => format!("{:?}", error.kind()) }));
    }
}
told.sort(); told.dedup(); println!("{}", told.join("\n"));
"""


def test_cells_cannot_look_into_a_broker_even_as_root(kernel_for_stack: str, tmp_path: Path) -> None:
    manager = KernelManager(kernel_name=kernel_for_stack)
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        printed: list[str] = []

        def keep(message: dict) -> None:
            printed.append(message["content"].get("text") or message["content"].get("data", {}).get("text/plain", ""))

        assert client.execute_interactive(LOOKS, timeout=120, output_hook=keep)["content"]["status"] == "ok", printed
        looked = "".join(printed).split("\n")
        looked = [line for line in looked if line]
        assert len(looked) == 8, looked
        assert all(line.endswith("PermissionDenied") for line in looked), looked
        printed.clear()
        assert client.execute_interactive("mounts()?", timeout=120, output_hook=keep)["content"]["status"] == "ok"
        walls = "".join(printed)
        assert "cells have no power over the broker" in walls and "root may look" not in walls, walls
        assert "keys stay in locked memory" in walls, walls
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the memory of a broker")
def test_content_and_keys_are_nowhere_but_where_they_are_used(
    stack: Stack, kernel_for_stack: str, tmp_path: Path
) -> None:
    canary = secrets.token_hex(32).encode()
    (tmp_path / "planted").mkdir()
    planted = secrets.token_hex(50_000).encode() + canary + secrets.token_hex(50_000).encode()
    (tmp_path / "planted" / "notes.txt").write_bytes(planted)
    done = run_alephlab("dataset", "put", tmp_path / "planted", "--data", stack.data)
    assert done.returncode == 0, done.stderr
    account = stack.data / "accounts" / "owner"
    key = grants.Key(bytes.fromhex((account / "reader.key").read_text()))
    wallet = bytes.fromhex((account / "wallet.key").read_text().strip())
    epoch = epoch_secret(stack, "planted", key)
    keys = {"epoch": epoch, "x25519": key.secrets[:32], "xwing": key.secrets[32:], "wallet": wallet}
    keys["wallet in limbs"] = wallet[::-1]
    wanted = {"canary": canary, **keys, **{f"{name} in hex": value.hex().encode() for name, value in keys.items()}}

    manager = KernelManager(kernel_name=kernel_for_stack)
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        code = 'let data = mount("planted")?; let read = std::fs::read(data.path().join("notes.txt"))?; read.len()'
        reply = client.execute_interactive(code, timeout=120, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", reply
        where = {}
        for name, processes in started(manager.provisioner.process.pid, stack.process.pid).items():
            pieces = (piece for process in processes for piece in memory_of(process))
            where[name] = found_in(pieces, wanted)
        # The cell has read it, the broker has decrypted it for the cell, and neither was given more than this version's keys.
        assert where.pop("alephlab-kernel child") == {"canary"}, where
        assert where.pop("alephlab-broker --bootstrap") <= {"canary"}, where
        # The process of the stack answers for the account, and so has its keys; not what they open.
        stack_has = where.pop("alephlab quickstart")
        assert stack_has >= {"x25519", "xwing"} and "canary" not in stack_has, stack_has
        assert all(found == set() for found in where.values()), where

        allowed = {account / "reader.key", account / "wallet.key"}
        made = (account / "wallet.key").stat().st_mtime
        for folder in [stack.data, Path(os.environ["ALEPHLAB__RUNTIME__DIR"])]:
            for path in files_under(folder, made):
                if path not in allowed:
                    assert found_in(iter([path.read_bytes()]), wanted) == set(), path
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
