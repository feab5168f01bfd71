"""Accounts whose keys a passphrase locks, that come from other wallets, or whose key is elsewhere: beside `eth_account`."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pexpect
from eth_account import Account

from support import ALEPHLAB, Stack, run_alephlab
from test_cli import refused

SECONDS = 60
PASSPHRASE = "correct horse battery"


def typed(arguments: list[object], *answers: str) -> tuple[str, int]:
    """Runs a command at a terminal, answers what it asks, and returns what was seen and its exit code."""
    words = [str(word) for word in arguments]
    running = pexpect.spawn(str(ALEPHLAB), words, encoding="utf-8", timeout=SECONDS, dimensions=(40, 200))
    for answer in answers:
        running.expect(": $")
        running.sendline(answer)
    running.expect(pexpect.EOF)
    running.close()
    return running.before, running.exitstatus


def files_of(data: Path, name: str) -> list[Path]:
    return [data / "accounts" / name / file for file in ("wallet.key", "reader.key")]


def test_a_passphrase_locks_the_keys_as_other_wallets_read_them(tmp_path: Path) -> None:
    seen, code = typed(["wallet", "new", "ada", "--data", tmp_path], PASSPHRASE, PASSPHRASE)
    assert code == 0 and PASSPHRASE not in seen
    address = re.search(r"0x[0-9a-fA-F]{40}", seen)[0]
    wallet, reader = files_of(tmp_path, "ada")
    for file in (wallet, reader):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text())["crypto"]["kdfparams"]["n"] == 1 << 18
    secret = Account.decrypt(wallet.read_text(), PASSPHRASE)
    assert Account.from_key(secret).address == address
    # What only shows the address needs no passphrase; what needs the key asks once for both files.
    assert run_alephlab("wallet", "address", "ada", "--data", tmp_path).stdout.strip() == address
    assert address in run_alephlab("wallet", "list", "--data", tmp_path).stdout
    shown, code = typed(["wallet", "show", "ada", "--data", tmp_path], PASSPHRASE)
    assert code == 0 and "by a passphrase" in shown and secret.hex().removeprefix("0x") not in shown
    wrong, code = typed(["wallet", "show", "ada", "--data", tmp_path], "something else")
    assert code != 0 and "the passphrase does not open" in wrong
    nobody = run_alephlab("wallet", "show", "ada", "--data", tmp_path)
    assert "nobody can type it" in refused(nobody) and "passphrase_file" in nobody.stderr


def test_a_file_has_the_passphrase_where_nobody_types_and_another_one_replaces_it(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "passphrase"
    refused(run_alephlab("wallet", "new", "ada", "--data", data), "passphrase", "--no-passphrase")
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    os.environ["ALEPHLAB__ACCOUNT__PASSPHRASE_FILE"] = str(file)
    try:
        address = run_alephlab("wallet", "new", "ada", "--data", data).stdout.strip()
        assert run_alephlab("wallet", "show", "ada", "--data", data).returncode == 0
    finally:
        del os.environ["ALEPHLAB__ACCOUNT__PASSPHRASE_FILE"]
    seen, code = typed(["wallet", "lock", "ada", "--data", data], PASSPHRASE, "another one", "another one")
    assert code == 0, seen
    assert Account.from_key(Account.decrypt(files_of(data, "ada")[0].read_text(), "another one")).address == address
    assert len(list((data / "accounts/ada").iterdir())) == 2
    for answers in (["short"], ["long enough", "but different"]):
        _, code = typed(["wallet", "lock", "ada", "--data", data], "another one", *answers)
        assert code == 2
    assert Account.decrypt(files_of(data, "ada")[1].read_text(), "another one")


def test_another_wallets_key_file_is_imported(tmp_path: Path) -> None:
    theirs = Account.create()
    for kdf, rounds in (("scrypt", 1 << 12), ("pbkdf2", 10_000)):
        file = tmp_path / f"{kdf}.json"
        file.write_text(json.dumps(theirs.encrypt(PASSPHRASE, kdf=kdf, iterations=rounds)))
        file.chmod(0o600)
        command = ["wallet", "import", kdf, "--keystore", file, "--no-passphrase", "--data", tmp_path / "data"]
        seen, code = typed(command, PASSPHRASE)
        assert code == 0 and theirs.address in seen
        assert files_of(tmp_path / "data", kdf)[0].read_text().strip() == theirs.key.hex().removeprefix("0x")


SIGNER = """import sys
from eth_account import Account
from eth_account.messages import encode_defunct
text = sys.stdin.read()
open({log!r}, "a").write(text.splitlines()[0] + "\\n")
print(Account.sign_message(encode_defunct(text=text), {key!r}).signature.hex())
"""


def test_a_program_signs_for_an_account_whose_key_is_elsewhere(stack: Stack, tmp_path: Path) -> None:
    theirs, log, script = Account.create(), tmp_path / "asked", tmp_path / "sign.py"
    script.write_text(SIGNER.format(log=str(log), key=theirs.key.hex()))
    command = ["wallet", "import", "hardware", "--no-passphrase", "--data", stack.data]
    signer = ["--signer", f"{sys.executable} {script}", "--address"]
    stranger = run_alephlab(*command, *signer, Account.create().address)
    assert "signed as" in refused(stranger)
    done = run_alephlab(*command, *signer, theirs.address)
    assert done.stdout.strip() == theirs.address, done.stderr
    for file in files_of(stack.data, "hardware"):
        assert theirs.key.hex().removeprefix("0x") not in file.read_text()
    # What it signs the Aleph node takes: the reader key is registered.
    done = run_alephlab("wallet", "register-key", "hardware", "--data", stack.data)
    assert done.returncode == 0, done.stderr
    assert "ETH" in log.read_text()


def test_the_key_of_a_lost_machine_is_taken_back(stack: Stack, tmp_path: Path) -> None:
    secret = "11" * 32
    where = {"ALEPHLAB__ALEPH__URL": json.loads((stack.data / "run.json").read_text())["aleph_url"]}

    def wallet(machine: str, *words: str):
        command = [ALEPHLAB, "wallet", *words, "--data", tmp_path / machine]
        environment = {**os.environ, **where}
        return subprocess.run(command, env=environment, input=secret, capture_output=True, text=True, timeout=SECONDS)

    for machine in ("desk", "lost"):
        assert wallet(machine, "import", "ada", "--no-passphrase").returncode == 0
        assert wallet(machine, "register-key", "ada").returncode == 0
    lines = wallet("desk", "keys", "ada").stdout.splitlines()
    # In the order of their seconds, which may be the same one.
    assert sorted(line.split("  ")[2:] for line in lines) == [["another machine", "in use"], ["this machine", "in use"]]
    lost = next(line.split()[0] for line in lines if "another" in line)
    assert "was not revoked" in refused(wallet("desk", "revoke-key", "ada", "00" * 16))
    assert "wrapped for" in wallet("desk", "revoke-key", "ada", lost).stdout
    again = wallet("desk", "keys", "ada").stdout
    assert re.search(rf"{lost}.*another machine  revoked", again), again
    assert "was revoked" in refused(wallet("lost", "register-key", "ada"))

