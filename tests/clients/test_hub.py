"""`huggingface_hub` downloads a shared model from the gateway, knowing only its UUID and token."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.parse
import uuid
from pathlib import Path

from support import Stack

DOWNLOAD = """
import json, sys
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
repo, token = sys.argv[1], sys.argv[2] or False
try:
    folder = snapshot_download(repo, token=token)
    file = hf_hub_download(repo, "model.safetensors", token=token)
    print(json.dumps({"folder": folder, "file": file}))
except RepositoryNotFoundError as error:
    print(json.dumps({"refused": str(error.response.status_code)}))
"""


def download(stack: Stack, home: Path, repo: str, token: str) -> dict:
    env = {
        **os.environ, "HF_ENDPOINT": stack.gateway_url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    env.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, repo, token], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def answer_of(stack: Stack, method: str, path: str, token: str | None) -> tuple[int, dict, bytes]:
    url = urllib.parse.urlsplit(stack.gateway_url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, answer.read()


def test_huggingface_hub_downloads_a_shared_model(stack: Stack, tmp_path: Path) -> None:
    repo = f"m/{stack.result['share_uuid']}"
    got = download(stack, tmp_path, repo, stack.result["share_token"])
    names = {str(path.relative_to(got["folder"])) for path in Path(got["folder"]).rglob("*") if path.is_file()}
    assert {"model.safetensors", "README.md", "config.json"} <= names
    assert Path(got["folder"]).name == stack.result["revision"]
    _, headers, _ = answer_of(stack, "HEAD", f"/{repo}/resolve/main/model.safetensors", stack.result["share_token"])
    etag = (headers.get("x-linked-etag") or headers["etag"]).strip('"')
    assert hashlib.sha256(Path(got["file"]).read_bytes()).hexdigest() == etag


def test_hf_command_downloads_one_file(stack: Stack, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": stack.gateway_url, "HF_TOKEN": stack.result["share_token"],
           "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}  # fmt: skip
    hf = Path(sys.executable).with_name("hf")
    repo = f"m/{stack.result['share_uuid']}"
    done = subprocess.run(
        [hf, "download", repo, "model.safetensors", "--local-dir", tmp_path / "model"],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 1000


def test_wrong_token_wrong_uuid_and_no_token_get_one_answer(stack: Stack, tmp_path: Path) -> None:
    right, token = stack.result["share_uuid"], stack.result["share_token"]
    wrong_token = token[:3] + ("A" if token[3] != "A" else "B") + token[4:]
    cases = [(right, wrong_token), (str(uuid.uuid4()), token), (right, None)]
    routes = ["/api/models/m/{}", "/api/models/m/{}/revision/main", "/m/{}/resolve/main/model.safetensors"]
    for route in routes:
        for method in ("GET", "HEAD"):
            answers = []
            for share, bearer in cases:
                status, headers, body = answer_of(stack, method, route.format(share), bearer)
                for changing in ("date", "x-request-id"):
                    headers.pop(changing, None)
                answers.append((status, headers, body))
            assert answers[0] == answers[1] == answers[2], route
            status, headers, _ = answers[0]
            assert (status, headers["x-error-code"]) == (401, "RepoNotFound")
    for share, bearer in cases:
        assert download(stack, tmp_path / "refused", f"m/{share}", bearer or "") == {"refused": "401"}
