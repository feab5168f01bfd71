"""An Aleph node, a gateway without a host, and accounts with a hub each: sealed models without a kernel."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from support import ALEPHLAB, PROGRAMS

EXAMPLES = PROGRAMS / "examples"


@dataclass
class Network:
    """A node and a gateway of its own folder, for accounts of one data folder."""

    folder: Path
    names: tuple[str, ...]
    processes: list[subprocess.Popen] = field(default_factory=list)
    node: str = ""
    gateway: str = ""
    addresses: dict[str, str] = field(default_factory=dict)

    def start(self) -> "Network":
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            made = self.run("wallet", "new", name, "--no-passphrase")
            self.addresses[name] = made.stdout.strip()
        self.node = self.program("localnet", "--port", "0", "--data", self.folder / "node")
        self.gateway = self.program("registry_gateway", self.node, self.folder / "gateway", *self.addresses.values())
        for name in self.names:
            self.run("wallet", "register-key", name)
        return self

    def program(self, name: str, *arguments: object) -> str:
        """Starts an example, which prints its address; standard input stays open for as long as it is to run."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [EXAMPLES / name, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes.append(process)
        return process.stdout.readline().strip()

    @property
    def environment(self) -> dict[str, str]:
        more = {"ALEPHLAB__ALEPH__URL": self.node} if self.node else {}
        return {**os.environ, "NO_PROXY": "127.0.0.1", **more}

    def run(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        done = self.tried(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def tried(self, *arguments: object, stdin: str = "", timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [ALEPHLAB, *map(str, arguments), "--data", self.folder / "data"]
        return subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=timeout
        )

    def model(self, account: str, *arguments: object, **options: object) -> dict:
        """What `alephlab model … --json` prints, of an account."""
        done = self.run("model", *arguments, "--json", *self.as_account(account), **options)
        return json.loads(done.stdout.splitlines()[-1])

    def refused(self, account: str, *arguments: object, **options: object) -> str:
        """What `alephlab model …` says when it does not do it: one sentence and what to do."""
        done = self.tried("model", *arguments, *self.as_account(account), **options)
        assert done.returncode != 0, done.stdout
        assert done.stderr.count("error: ") == 1, done.stderr
        return done.stderr

    def as_account(self, account: str) -> list[str]:
        return ["--account", account, "--gateway", self.gateway]

    def hub(self, account: str) -> "AccountHub":
        with (self.folder / f"hub-{account}.log").open("ab") as log:
            process = subprocess.Popen(
                [ALEPHLAB, "hub", "--json", *self.as_account(account), "--data", self.folder / "data"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.processes.append(process)
        said = json.loads(process.stdout.readline())
        folder = self.folder / "data" / "accounts" / account / "hub"
        return AccountHub(said["url"], said["token"], said["account"], process, folder)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@dataclass
class AccountHub:
    """A running `alephlab hub`."""

    url: str
    token: str
    name: str
    process: subprocess.Popen
    folder: Path
