"""The `alephlab` command with bad input: one clear sentence each, and nothing lost. And what it shows of itself."""

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support import ALEPHLAB, Stack, run_alephlab, wait_until

OBJECT_MAGIC = b"ALEPHDS1"
SENTENCE = re.compile(r"^error: .+$", re.MULTILINE)


def refused(done: subprocess.CompletedProcess, *parts: str) -> str:
    """The one sentence of a refusal; every part must be in it or in its hint."""
    assert done.returncode != 0, done.stdout
    sentences = SENTENCE.findall(done.stderr)
    assert len(sentences) == 1, done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr
    assert "panicked" not in done.stderr
    return sentences[0]


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "notebook.ipynb"
    cells = [
        {"cell_type": "code", "id": f"c{number}", "metadata": {}, "outputs": [], "execution_count": None, "source": code}
        for number, code in enumerate(cells)
    ]  # fmt: skip
    path.write_text(json.dumps({"cells": cells, "metadata": {"kept": 1}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def run_on(stack: Stack, *arguments: object, timeout: float = 240) -> subprocess.CompletedProcess:
    return run_alephlab("run", *arguments, "--data", stack.data, timeout=timeout)


def processes_of(folder: Path) -> list[str]:
    """Command lines of our running programs that name `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if "alephlab" in Path(words[0]).name and (str(folder) in " ".join(words) or where.startswith(str(folder))):
                found.append(" ".join(words))
    return found


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("up", "quickstart"):
            done = run_alephlab(command, "--data", tmp_path / "data", "--port", port)
            refused(done, f"port {port}", "in use", "--port")


@pytest.mark.parametrize("command", ["up", "quickstart"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    done = run_alephlab(command, "--data", file / "data")
    refused(done, str(file), "--data")
    assert file.read_text() == "kept"


def test_doctor_asks_every_node(stack: Stack, tmp_path: Path) -> None:
    nodes = {"ALEPHLAB__ALEPH__URL": f"http://127.0.0.1:9, {stack.aleph_url}"}
    done = run_alephlab("doctor", "--network", "--json", "--data", stack.data, env=os.environ | nodes)
    found = [one for one in json.loads(done.stdout)["findings"] if one["name"] in ("Aleph node", "storage credits")]
    assert done.returncode == 1 and [one["ok"] for one in found] == [False, True, True], found
    assert "127.0.0.1:9" in found[0]["found"] and "answers in" in found[1]["found"]
    assert "credits; an object of 32 MiB costs" in found[2]["found"]
    # Without a setting it is the node of the running stack.
    done = run_alephlab("doctor", "--network", "--data", stack.data)
    assert done.returncode == 0 and f"ok      Aleph node: {stack.aleph_url}" in done.stdout, done.stdout
    done = run_alephlab("doctor", "--network", "--data", tmp_path / "nothing")
    assert done.returncode == 1 and "start `alephlab up`, or set aleph.url" in done.stdout


def test_two_nodes_of_which_one_is_dead_are_as_good_as_one(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "towns.csv").write_text("name\nAndorra\n")
    two = os.environ | {"ALEPHLAB__ALEPH__URL": f"http://127.0.0.1:9,{stack.aleph_url}"}
    done = run_alephlab("dataset", "put", tmp_path / "towns.csv", "--json", "--data", stack.data, env=two)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == 1
    assert "towns.csv" in run_alephlab("dataset", "ls", "towns.csv", "--data", stack.data, env=two).stdout
    done = run_alephlab("dataset", "ls", "--data", stack.data, env=os.environ | {"ALEPHLAB__ALEPH__URL": "a,b"})
    assert done.returncode != 0 and "several with commas" in done.stderr


def test_a_missing_toolchain_is_named_and_doctor_says_how_to_get_it(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PATH": str(empty)}
    done = run_alephlab("quickstart", "--exit", "--port", "0", "--data", tmp_path / "data", env=env)
    refused(done, "rustc", "rustup")
    done = run_alephlab("doctor", "--json", "--data", tmp_path / "data", env=env)
    assert done.returncode == 1
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert not findings["Rust toolchain"]["ok"] and "rustup" in findings["Rust toolchain"]["fix"]
    assert not findings["C compiler"]["ok"]


def test_a_second_up_on_one_folder_names_the_first(stack: Stack) -> None:
    done = run_alephlab("up", "--no-browser", "--port", "0", "--data", stack.data)
    refused(done, str(stack.data), f"process {stack.process.pid}")
    assert stack.process.poll() is None


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    env = {**os.environ, "ALEPHLAB__GATEWAY__PROT": "1"}
    refused(run_alephlab("config", "show", "--data", tmp_path, env=env), "gateway.prot")
    (tmp_path / "alephlab.toml").write_text("[aleph]\nulr = 'x'\n")
    refused(run_alephlab("config", "show", "--data", tmp_path), "ulr", "alephlab.toml")


def test_config_show_tells_values_sources_and_what_runs(stack: Stack) -> None:
    env = {**os.environ, "ALEPHLAB__GATEWAY__TOKEN": "canary-token-of-the-test"}
    done = run_alephlab("config", "show", "--json", "--data", stack.data, env=env)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["settings"]["data.dir"] == {
        "value": str(stack.data), "source": "command line", "about": shown["settings"]["data.dir"]["about"],
    }  # fmt: skip
    assert shown["settings"]["gateway.token"]["source"] == "environment ALEPHLAB__GATEWAY__TOKEN"
    assert shown["settings"]["aleph.url"]["source"] == "default"
    assert shown["running"]["gateway_url"] == stack.gateway_url
    assert shown["running"]["aleph_url"] == stack.aleph_url
    assert "canary-token" not in done.stdout and stack.token not in done.stdout


def test_a_wallet_is_imported_from_standard_input_and_its_key_never_printed(tmp_path: Path) -> None:
    # The first account of Hardhat and Anvil, public since ever.
    key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
    address = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"

    def imported(name: str, text: str) -> subprocess.CompletedProcess:
        command = [ALEPHLAB, "wallet", "import", name, "--no-passphrase", "--data", tmp_path]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    assert imported("ada", f"0x{key}\n").stdout.strip() == address
    refused(imported("ada", key), "exists already")
    for wrong in ["", "0x12", "z" * 64, "0" * 64]:
        refused(imported("eve", wrong))
        assert not (tmp_path / "accounts/eve/wallet.key").exists()
    shown = run_alephlab("wallet", "show", "ada", "--data", tmp_path)
    assert address in shown.stdout and key not in shown.stdout + shown.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_the_commands(shell: str) -> None:
    assert "revoke" in run_alephlab("completions", shell).stdout


def test_wallets_are_made_once(tmp_path: Path) -> None:
    made = run_alephlab("wallet", "new", "ada", "--no-passphrase", "--data", tmp_path)
    assert re.fullmatch(r"0x[0-9a-fA-F]{40}", made.stdout.strip()), made.stderr
    again = run_alephlab("wallet", "address", "ada", "--data", tmp_path)
    assert again.stdout == made.stdout
    refused(run_alephlab("wallet", "new", "ada", "--no-passphrase", "--data", tmp_path), "ada", "exists")
    refused(run_alephlab("wallet", "address", "bob", "--data", tmp_path), "bob", "wallet new")
    assert run_alephlab("wallet", "address", "ada", "--data", tmp_path).stdout == made.stdout


def test_run_writes_outputs_and_a_failing_cell_is_an_error(stack: Stack, tmp_path: Path) -> None:
    source = notebook(tmp_path, 'println!("before {n}");', "let v: Vec<i32> = vec![1]; v[n as usize]", 'println!("after");')
    before = source.read_bytes()
    out = tmp_path / "out.ipynb"
    done = run_on(stack, source, "--output", out, "--param", "n=7")
    refused(done, "cell 3 failed", "index out of bounds")
    assert source.read_bytes() == before
    written = json.loads(out.read_text())
    assert written["metadata"] == {"kept": 1}
    outputs = [cell["outputs"] for cell in written["cells"]]
    assert "".join(outputs[1][0]["text"]) == "before 7\n"
    assert outputs[2][-1]["output_type"] == "error"
    assert outputs[3] == []


def test_run_refuses_what_is_no_notebook_and_keeps_it(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "not.ipynb"
    path.write_text("[1]")
    refused(run_on(stack, path), str(path), "not a notebook")
    assert path.read_text() == "[1]"


def test_a_wrong_token_is_refused(stack: Stack, tmp_path: Path) -> None:
    source = notebook(tmp_path, "1 + 1")
    done = run_alephlab("run", source, "--gateway", stack.gateway_url, "--token", "wrong", "--data", tmp_path / "none")
    refused(done)
    assert "wrong" not in done.stderr.replace("wrong token", "")
    assert json.loads(source.read_text())["cells"][0]["outputs"] == []


def test_another_account_cannot_share_the_model(stack: Stack) -> None:
    model = stack.result["model"]
    for name, whose in ((model, "another account"), (model.split("/")[1], "reader")):
        done = run_alephlab("share", "create", name, "--account", "reader", "--data", stack.data)
        refused(done, whose, name)


def test_shares_are_made_listed_and_ended(stack: Stack) -> None:
    model = stack.result["model"].split("/")[1]
    made = run_alephlab("share", "create", model, "--expires", "1h", "--json", "--data", stack.data)
    assert made.returncode == 0, made.stderr
    share = json.loads(made.stdout)
    assert share["token"].startswith("hf_") and share["model"] == stack.result["model"]
    listed = run_alephlab("share", "list", "--data", stack.data)
    assert share["uuid"] in listed.stdout and share["token"] not in listed.stdout
    assert run_alephlab("share", "revoke", share["uuid"], "--data", stack.data).returncode == 0
    assert share["uuid"] not in run_alephlab("share", "list", "--data", stack.data).stdout


def sealed_objects(data: Path) -> list[Path]:
    def is_sealed(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(OBJECT_MAGIC)) == OBJECT_MAGIC

    return [path for path in (data / "aleph").rglob("*") if path.is_file() and is_sealed(path)]


def test_a_changed_object_is_refused_and_named(stack: Stack, tmp_path: Path) -> None:
    objects = sealed_objects(stack.data)
    assert objects
    whole = {path: path.read_bytes() for path in objects}
    source = notebook(tmp_path, 'let digits: Dataset = mount("digits")?;')
    try:
        for path, content in whole.items():
            mode = path.stat().st_mode
            path.chmod(mode | 0o200)
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = run_on(stack, source)
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
    refused(done, "cell 1 failed")
    named = set(re.findall(r"[0-9a-f]{64}", done.stderr))
    assert named & {path.name for path in objects} or any(
        hash_ in str(path) for hash_ in named for path in objects
    ), done.stderr
    done = run_on(stack, source)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_at_any_phase_leaves_nothing_running_and_a_second_run_works(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [ALEPHLAB, "quickstart", "--exit", "--json", "--port", "0", "--data", data]
    for phase in ("toolchain", "services", "dataset", "kernel", "training", "pull"):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        ) as process:
            said = []
            for line in process.stderr:
                said.append(line)
                if f"] {phase}: " in line:
                    process.send_signal(signal.SIGINT)
                    break
            said.extend(process.stderr)
            assert process.wait(60) == 130, "".join(said)
        assert SENTENCE.findall("".join(said)) != [], said
        wait_until(lambda: not processes_of(data), 20, f"no process is left after Ctrl-C in {phase}")
    done = run_alephlab(*command[1:], timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["accuracy"] == result["pulled_accuracy"] >= 0.97
    assert not processes_of(data)


def test_a_kernel_that_costs_is_paid_from_what_the_operator_gave(tmp_path: Path) -> None:
    environment = {**os.environ, "ALEPHLAB__GATEWAY__KERNEL_PRICE": "7200"}
    command = [ALEPHLAB, "up", "--port", "0", "--no-browser", "--data", tmp_path / "data"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
        try:
            wait_until((tmp_path / "data" / "run.json").exists, 90, "up has started")

            def alephlab(*words: object):
                return run_alephlab(*words, "--data", tmp_path / "data")

            first = notebook(tmp_path, "std::thread::sleep(std::time::Duration::from_millis(1500)); 6 * 7")
            refused(alephlab("run", first), "1200.00 credits have to be set aside", "ask the gateway's operator")
            assert "nothing" in refused(alephlab("wallet", "credit", "owner", "0"))
            assert "no amount" in alephlab("wallet", "credit", "owner", "many").stderr
            given = alephlab("wallet", "credit", "owner", "5000.5", "--memo", "welcome")
            assert "5000.50 credits: 5000.50 credits available" in given.stdout, given.stderr
            ran = alephlab("run", first)
            assert ran.returncode == 0, ran.stderr
            balance = json.loads(alephlab("wallet", "balance", "owner", "--json").stdout)["balances"][0]
            spent = 5_000_500_000_000_000_000_000 - int(balance["total"])
            # Two credits a second; the kernel ran for less than a minute.
            assert 2 * 10**18 <= spent < 120 * 10**18 and balance["held"] == "0"
            statement = alephlab("wallet", "statement", "owner").stdout
            assert "+5000.50 credits  welcome" in statement
            receipts = [json.loads(line) for line in alephlab("receipt", "list", "--json").stdout.splitlines()]
            assert sum(int(one["amount"]) for one in receipts) == spent
        finally:
            up.terminate()
