"""What it costs to read by a share that was bought, above reading a public model: the same small file, by turns, on one connection each.

    ALEPHLAB_PROGRAMS=FOLDER python tests/bench/gate.py [REQUESTS]

FOLDER has the release's `alephlab` and `examples/{localnet,registry_gateway}`, as for the tests of clients. A read of the share looks at its
row (token, end, limits) and counts what was read in the database, on the disk; one of the public model counts a download.
"""

import http.client
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients"))

from sealed import Network  # noqa: E402
from test_market import give, published  # noqa: E402


class Reader:
    """One connection that reads one file."""

    def __init__(self, gateway: str, repo: str, token: str | None) -> None:
        at = urllib.parse.urlsplit(gateway)
        self.connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        self.path = f"/{repo}/resolve/main/config.json"
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.times: list[float] = []

    def read(self) -> None:
        begin = time.perf_counter()
        self.connection.request("GET", self.path, headers=self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        self.times.append((time.perf_counter() - begin) * 1000)
        assert answer.status == 200 and body, answer.status

    def said(self) -> str:
        cuts = statistics.quantiles(self.times, n=100)
        return f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms"


def main(requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder) / "network", ("operator", "seller", "buyer")).start()
        try:
            give(network, "buyer", 100)
            published(network, "seller", Path(folder) / "sold", "sold")
            network.model("seller", "sell", "sold", "--price", 1, "--release", "deposit")
            (Path(folder) / "open").mkdir()
            (Path(folder) / "open" / "config.json").write_text('{"model_type": "gpt2"}')
            network.model("seller", "publish", Path(folder) / "open", "--name", "open", "--public")
            owner = network.addresses["seller"]
            share = network.model("buyer", "buy", f"{owner}/sold", "--yes")["share"]
            tokens = json.loads((network.folder / "data" / "accounts" / "buyer" / "shares.json").read_text())
            bought = Reader(network.gateway, f"m/{share}", tokens[share])
            public = Reader(network.gateway, f"{owner}/open", None)
            for one in (bought, public) * 20:
                one.read()
            bought.times, public.times = [], []
            for _ in range(requests):
                bought.read()
                public.read()
        finally:
            network.stop()
    more = statistics.median(bought.times) - statistics.median(public.times)
    print(f"load {os.getloadavg()[0]:.1f}; {requests} of each")
    print(f"by a bought share: {bought.said()}\npublic: {public.said()}\nmore: {more:.2f} ms at p50")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
