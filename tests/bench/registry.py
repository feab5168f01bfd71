"""The registry's figures: metadata, search, downloads and memory, each against what stands beside it.

    cargo build --release -p alephlab-gateway --examples
    python tests/bench/registry.py EXAMPLE metadata    # resolve HEAD with 10,000 repos, search over 100,000 models; needs wrk
    python tests/bench/registry.py EXAMPLE download    # 1 GiB by hf and curl; needs nginx, hf, and mlflow where it is there

EXAMPLE is the built `registry` of gateway/examples. Prints a table row for each figure, with the load of the machine.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Without letters, so that it is spelled in one way.
OWNER = "0x" + "12" * 20
REPOS = 10_000
MODELS = 100_000
GIB = 1 << 30
TASKS = ["text-generation", "image-classification", "token-classification", "tabular-regression", "automatic-speech-recognition"]
LICENCES = ["mit", "apache-2.0", "cc-by-4.0", "bsd-3-clause"]
WORDS = ["digits", "penguins", "tiny", "large", "german", "speech", "vision", "code", "chat", "embed", "rank", "noise"]


@contextmanager
def part(*command: str) -> Iterator[tuple[str, int]]:
    """A process that prints its address and ends with its standard input: the address and its id."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip(), process.pid
        process.stdin.close()


def say(what: str, value: str) -> None:
    print(f"| {what} | {value} | load {os.getloadavg()[0]:.1f} |", flush=True)


def fill(database: Path, count: int) -> list[str]:
    """Rows as verified records leave them; heads are not read by what is measured here."""
    connection = sqlite3.connect(database)
    rows = []
    for number in range(count):
        name = f"{OWNER}/{WORDS[number % 12]}-{WORDS[number // 12 % 12]}-{number}"
        commit, message = f"{number:040x}", f"{number:064x}"
        record = {
            "owner": OWNER, "name": name, "uuid": f"00000000-0000-4000-8000-{number:012x}", "commit": commit, "parent": None,
            "tags": [], "price": "free", "visibility": "public", "keys": "AAAA", "head": message, "created": 1_700_000_000 + number,
            "card": {
                "title": f"{WORDS[number % 12]} {WORDS[number // 7 % 12]}", "licence": LICENCES[number % 4], "task": TASKS[number % 5],
                "description": "A model that was made to be counted.", "tags": [WORDS[number // 5 % 12], WORDS[number // 3 % 12]],
                "library": "candle", "dataset": "digits",
            },
            "files": [
                {"path": path, "size": 1_000_000 + number, "sha256": f"{number:064x}"}
                for path in ("README.md", "config.json", "model.safetensors", "tokenizer.json")
            ],
        }  # fmt: skip
        rows.append((message, OWNER, name, record["uuid"], commit, json.dumps(record), "{}", number, record["created"]))
    connection.execute("DELETE FROM models")
    connection.executemany(
        "INSERT INTO models (message, owner, name, uuid, revision, record, head, created, made) VALUES (?,?,?,?,?,?,?,?,?)", rows
    )
    connection.commit()
    connection.close()
    return [row[2] for row in rows]


def wrk(url: str, connections: int, method: str, paths: list[str], *headers: str, seconds: int = 4) -> dict[str, float]:
    """Latencies in ms and requests a second, from wrk, over random ones of these paths."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "paths")
        listed.write_text("\n".join(paths))
        script = Path(folder, "ask.lua")
        script.write_text(
            f"""
            local paths = {{}}
            for line in io.lines("{listed}") do paths[#paths + 1] = line end
            function setup(thread) thread:set("seed", os.time()) end
            function init() math.randomseed(seed) end
            function request() return wrk.format("{method}", paths[math.random(#paths)]) end
            function done(summary, latency)
                io.write(string.format("{{\\"p50\\": %f, \\"p99\\": %f, \\"rate\\": %f, \\"bad\\": %d}}\\n",
                    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
                    summary.requests / summary.duration * 1e6, summary.errors.status))
            end
            """
        )
        more = [part for header in headers for part in ("-H", header)]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, *more, url]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(answer.strip().splitlines()[-1])
    assert found["bad"] == 0, answer
    return found


def head(example: str, url: str, connections: int, paths: list[str]) -> dict[str, float]:
    command = [example, "head", url.removeprefix("http://"), str(connections), "4"]
    answer = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(answer)
    return found


def rss(pid: int) -> float:
    """MB that a process has now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]


@contextmanager
def peak(pid: int) -> Iterator[list[float]]:
    """The most that a process has meanwhile."""
    seen = [rss(pid)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen[0] = max(seen[0], rss(pid))

    watcher = threading.Thread(target=look)
    watcher.start()
    yield seen
    over.set()
    watcher.join()


def metadata(example: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with part(example, "gateway", folder, "http://127.0.0.1:9"):
            pass
        for count in (REPOS, MODELS):
            names = fill(Path(folder, "gateway.db"), count)
            begun = time.monotonic()
            with part(example, "gateway", folder, "http://127.0.0.1:9") as (url, pid):
                say(f"start with {count} models", f"{time.monotonic() - begun:.1f} s, {rss(pid):.0f} MB")
                if count == REPOS:
                    paths = [f"/{name}/resolve/main/model.safetensors" for name in names]
                    first = head(example, url, 32, paths)
                    say("resolve HEAD, 32 connections, most read the first time", latency(first))
                    for connections in (1, 32, 256):
                        say(f"resolve HEAD, {connections} connections", latency(head(example, url, connections, paths)))
                    say("memory then", f"{rss(pid):.0f} MB")
                else:
                    paths = [f"/api/models?search={one}&limit=30" for one in WORDS]
                    paths += [f"/api/models?search={one}+{other}&limit=30&sort=downloads" for one in WORDS for other in WORDS]
                    paths += [f"/api/models?filter=license:mit&pipeline_tag={task}&limit=30" for task in TASKS]
                    for connections in (1, 4):
                        say(f"search, {connections} connections", latency(wrk(url, connections, "GET", paths)))
                    pages = ["/models", "/models?page=2000", *(f"/models?q={one}&sort=pulled" for one in WORDS)]
                    pages += [f"/models?task={task}&licence=mit&open=public" for task in TASKS]
                    # As browsers ask for them, and without compression.
                    for how, headers in (("gzip", ["accept-encoding: gzip"]), ("as it is", [])):
                        of_model = [f"/models/{name}" for name in names[:1000]]
                        say(f"page with models, 1 connection, {how}", latency(wrk(url, 1, "GET", pages, *headers)))
                        say(f"page of a model, 1 connection, {how}", latency(wrk(url, 1, "GET", of_model, *headers)))


def latency(found: dict[str, float]) -> str:
    return f"p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms, {found['rate']:.0f}/s"


@contextmanager
def nginx(file: Path, resolve: str, sha256: str) -> Iterator[str]:
    """nginx with the file and the headers that hf asks for."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        port = 18_080
        config.write_text(
            f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log; user root;
            events {{ }}
            http {{ access_log off; sendfile on;
              server {{ listen 127.0.0.1:{port};
                location = {resolve} {{ alias {file}; etag off;
                  add_header X-Repo-Commit {"a" * 40}; add_header ETag '"{sha256}"'; }} }} }}
            """
        )
        with subprocess.Popen(["nginx", "-c", config, "-p", folder], stderr=subprocess.DEVNULL) as server:
            wait(port)
            yield f"http://127.0.0.1:{port}"
            server.terminate()


def wait(port: int) -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/")
            connection.getresponse()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing answers at port {port}")


def curl(url: str) -> float:
    begun = time.monotonic()
    subprocess.run(["curl", "-sf", "-o", "/dev/null", url], check=True)
    return time.monotonic() - begun


def hf(program: str, endpoint: str, name: str) -> float:
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1"}
        begun = time.monotonic()
        command = [program, "download", name, "model.safetensors"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - begun


def rates(what: str, run: object, times: int = 3) -> None:
    seconds = sorted(run() for _ in range(times))  # type: ignore[operator]
    median = seconds[len(seconds) // 2]
    say(what, f"{GIB / 1e6 / median:.0f} MB/s ({median:.2f} s; {seconds[0]:.2f} to {seconds[-1]:.2f})")


def download(example: str, program: str, mlflow: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        with file.open("wb") as out:
            for _ in range(GIB >> 20):
                out.write(os.urandom(1 << 20))
        sha256 = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout[:64]
        with part(example, "network", f"{folder}/network") as (node, _), part(example, "gateway", f"{folder}/gateway", node) as (url, pid):
            command = [example, "publish", url, node, "big", file]
            name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            resolve = f"/{name}/resolve/main/model.safetensors"

            def ceiling() -> float:
                answer = subprocess.run([example, "read", node, file], capture_output=True, text=True, check=True).stdout
                return float(answer.split()[1])

            rates("fetch, SHA-256 and AES in one process", ceiling)
            with peak(pid) as most:
                rates("curl, ours", lambda: curl(url + resolve))
            say("memory of the gateway, one client", f"{most[0]:.0f} MB at most")
            rates("hf, ours", lambda: hf(program, url, name))
            with nginx(file, resolve, sha256) as beside:
                rates("curl, nginx", lambda: curl(beside + resolve))
                rates("hf, nginx", lambda: hf(program, beside, name))
            if mlflow:
                with artifacts(mlflow, folder, file) as beside:
                    rates("curl, mlflow server", lambda: curl(beside), 1)
            begun = time.monotonic()
            with peak(pid) as most:
                clients = [threading.Thread(target=curl, args=(url + resolve,)) for _ in range(10)]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
            rate = 10 * GIB / 1e6 / (time.monotonic() - begun)
            say("ten clients, 1 GiB each", f"{most[0]:.0f} MB of memory at most, {rate:.0f} MB/s in all")


@contextmanager
def artifacts(program: str, folder: str, file: Path) -> Iterator[str]:
    """mlflow's server with the file as an artifact."""
    place = Path(folder, "artifacts")
    place.mkdir()
    os.link(file, place / "model.safetensors")
    port = 18_081
    command = [program, "server", "--port", str(port), "--artifacts-destination", place, "--backend-store-uri", f"sqlite:///{folder}/ml.db"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait(port)
        yield f"http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts/model.safetensors"
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example")
    parser.add_argument("what", choices=["metadata", "download"])
    parser.add_argument("--hf", default=shutil.which("hf"))
    parser.add_argument("--mlflow", default=shutil.which("mlflow"))
    arguments = parser.parse_args()
    if arguments.what == "metadata":
        metadata(arguments.example)
    else:
        download(arguments.example, arguments.hf, arguments.mlflow)


if __name__ == "__main__":
    main()
