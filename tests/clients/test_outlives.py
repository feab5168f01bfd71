"""Kernels outlive a gateway that is killed: the next one, at the same address, has them with everything that they said."""

import signal
from pathlib import Path

import psutil
import pytest

from channels import Page, ask, lines, result
from support import up, wait_until

LINES = 60
COUNTING = f"""for line in 0..{LINES} {{
    println!("line {{line}}");
    std::thread::sleep(std::time::Duration::from_millis(50));
}}
left + 1"""


@pytest.mark.parametrize("same_page", [True, False], ids=["page that was open", "page that was reloaded"])
def test_a_killed_gateway_loses_no_kernel_and_no_output(folder: Path, same_page: bool):
    data, log = folder / "data", folder / "up.log"
    first = up(data, log)
    kernel = ask(first, "/api/kernels", {"name": "alephlab"})["id"]
    page = Page(first, kernel, "page")
    page.hear(page.run("let left = 41;"), "execute_reply")
    cell = page.run(COUNTING)
    before = []
    while len(lines(before)) < 10:
        before += page.hear(cell, "stream")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(30)
    agents = [one for one in psutil.process_iter(["cmdline"]) if str(data) in " ".join(one.info["cmdline"] or [])]
    assert agents, "the agent goes on"
    # What nobody hears meanwhile: some of the lines.
    second = up(data, log)
    assert (second.gateway_url, second.token) == (first.result["gateway_url"], first.result["token"])
    assert "1 kernel of the last run goes on" in log.read_text()
    again = Page(second, kernel, "page" if same_page else "reloaded")
    after = again.hear(cell, "execute_result")
    heard = lines(before) + lines(after)
    # What came in the moment before the end may be told twice: it is not known whether it was heard.
    expected = [f"line {number}" for number in range(LINES)]
    assert sorted(set(heard), key=heard.index) == expected
    assert len(heard) <= LINES + 2
    assert result(after) == "42"
    # The kernel is the one that it was.
    assert result(again.hear(again.run("left"), "execute_result")) == "41"
    second.process.terminate()
    second.process.wait(60)
    wait_until(lambda: not any(one.is_running() for one in agents), 30, "the agent's end", psutil.Error)


def test_kernels_are_left_by_a_stop_where_that_is_set_and_end_with_it_elsewhere(folder: Path, monkeypatch):
    data, log = folder / "data", folder / "up.log"
    monkeypatch.setenv("ALEPHLAB__GATEWAY__KEEP_KERNELS", "true")
    first = up(data, log)
    kernel = ask(first, "/api/kernels", {"name": "alephlab"})["id"]
    page = Page(first, kernel, "page")
    page.hear(page.run("let left = 41;"), "execute_reply")
    first.process.terminate()
    assert first.process.wait(60) == 0
    monkeypatch.delenv("ALEPHLAB__GATEWAY__KEEP_KERNELS")
    second = up(data, log)
    page = Page(second, kernel, "page")
    assert result(page.hear(page.run("left + 1"), "execute_result")) == "42"
    second.process.terminate()
    assert second.process.wait(60) == 0
    third = up(data, log)
    assert ask(third, f"/api/kernels/{kernel}")["execution_state"] == "dead"
    third.process.terminate()
    third.process.wait(60)
