"""`alephlab attest` on published reports of real chips: each check by name, and nothing without all of them."""

import json
import os
from pathlib import Path

from support import run_alephlab

PUBLISHED = Path(__file__).parents[2] / "gateway/tests/fixtures/attestation"
AT = "2026-08-18T00:00:00Z"


def verify(name: str, *arguments: object, vcek: str | None = None) -> tuple[int, dict]:
    """Exit status, and the outcome of each check."""
    files = ("--report", PUBLISHED / f"{name}.report", "--vcek", PUBLISHED / f"{vcek or name}.vcek")
    done = run_alephlab("attest", "verify", "--json", *files, "--at", AT, *arguments)
    assert "panicked" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def outcomes(told: dict, outcome: str) -> list[str]:
    return [finding["check"] for finding in told["findings"] if finding["outcome"] == outcome]


def test_a_published_report_holds_and_releases_nothing() -> None:
    report = (PUBLISHED / "milan-v3.report").read_bytes()
    agreed = ("--measurement", report[0x90:0xC0].hex(), "--guest-policy", "0x30000")
    status, told = verify("milan-v3", *agreed, "--crl", PUBLISHED / "milan.crl")
    assert (status, told["holds"], told["release"]) == (0, True, False)
    assert outcomes(told, "not_checked") == ["TLS key"]
    assert told["refused"] == "attest_not_checked"


def test_what_fails_is_named() -> None:
    status, told = verify("milan-v2-debug", "--min-tcb", "snp=1")
    assert (status, outcomes(told, "fails")) == (1, ["guest policy"])
    status, told = verify("milan-v3", vcek="milan-v2")
    assert (status, outcomes(told, "fails")) == (1, ["signature", "chip", "firmware"])
    status, told = verify("turin-v5")
    assert (status, outcomes(told, "fails")) == (1, ["least firmware"])


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report"
    for content in (b"", b"no report", os.urandom(1184), os.urandom(1 << 20)):
        path.write_bytes(content)
        done = run_alephlab("attest", "verify", "--report", path, "--vcek", PUBLISHED / "milan-v3.vcek")
        assert done.returncode == 1
        assert done.stderr.startswith("error: attestation: "), done.stderr


def test_a_measured_vm_with_an_ordinary_gpu_is_refused(tmp_path: Path) -> None:
    reference = "cafe" * 16
    gpu = {"vendor": "NVIDIA", "device_name": "H100", "device_class": "0302", "device_id": "10de:2331"}
    measurement = {"platform": "sev_snp", "registers": {"launch": "ab" * 48}}
    content = {
        "allow_amend": False,
        "resources": {"vcpus": 8, "memory": 65536, "seconds": 30},
        "payment": {"type": "credit"},
        "environment": {
            "trusted_execution": {
                "mode": "sev_snp", "policy": 0x30000, "runtime": reference, "measurements": [measurement],
            }
        },
        "rootfs": {"parent": {"ref": reference, "use_latest": False}, "persistence": "host", "size_mib": 61440},
    }  # fmt: skip
    path = tmp_path / "content.json"
    path.write_text(json.dumps(content))
    done = run_alephlab("attest", "content", path)
    assert done.returncode == 0, done.stderr
    assert f"measurement {'ab' * 48}" in done.stdout
    path.write_text(json.dumps({**content, "requirements": {"gpu": [gpu]}}))
    done = run_alephlab("attest", "content", path)
    assert done.returncode == 1
    assert "an ordinary GPU is refused" in done.stderr
