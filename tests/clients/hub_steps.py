"""What a Hub client does in one go, step by step, against a hub whose address is in `HF_ENDPOINT`.

Run as a program, in the environment of the client that is looked at: `hub_steps.py NAME FOLDER`. Prints one line of JSON a
step. `ALICE`, `BOB` and `READER` are tokens: alice owns her namespace, bob another, the reader may only read.

Against `alephlab hub`, a hub is one account's: bob has his own, whose address is in `BOB_ENDPOINT`, and nobody only reads.
`SEALED` says so. Namespaces are addresses (`ALICE_NAME`, `BOB_NAME`). What such a hub does otherwise is said at each step.
"""

import hashlib
import json
import os
import socket
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationCopy, HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_steps_data import CARD, safetensors

URL = os.environ["HF_ENDPOINT"]
ALICE, BOB, READER = (os.environ.get(name, "") for name in ("ALICE", "BOB", "READER"))
SEALED = "SEALED" in os.environ
ALICE_NAME, BOB_NAME = os.environ.get("ALICE_NAME", "alice"), os.environ.get("BOB_NAME", "bob")
BOB_URL = os.environ.get("BOB_ENDPOINT", URL)
STEPS = {}


def step(name: str):
    def add(function):
        STEPS[name] = function
        return function

    return add


def raises(kind: type[Exception] | tuple[type[Exception], ...], function, *arguments, **options) -> Exception:
    try:
        function(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")


def request(method: str, path: str, token: str | None, body: bytes = b"", **headers: str):
    """A request as no client makes it: status, headers, body."""
    url = path if path.startswith("http") else URL + path
    asked = urllib.request.Request(url, method=method, data=body or None, headers=headers)
    if token:
        asked.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


class Cutting:
    """Passes connections on to the hub, and cuts the first ones that carry more than `most` bytes down."""

    def __init__(self, most: int, cuts: int) -> None:
        self.most, self.cuts, self.done = most, cuts, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        hub = urllib.parse.urlsplit(URL)
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection((hub.hostname, hub.port))
            threading.Thread(target=self.carry, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, self.most), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        carried = 0
        try:
            while piece := source.recv(65536):
                carried += len(piece)
                if most is not None and carried > most and self.done < self.cuts:
                    self.done += 1
                    break
                target.sendall(piece)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class World:
    def __init__(self, name: str, folder: Path) -> None:
        self.api = HfApi(endpoint=URL, token=ALICE)
        self.repo, self.folder = f"{ALICE_NAME}/{name}", folder
        self.cache = folder / "cache"
        self.upload = folder / "upload"
        (self.upload / "sub").mkdir(parents=True)
        (self.upload / "config.json").write_text('{"model_type": "gpt2"}')
        (self.upload / "empty.txt").write_text("")
        (self.upload / "model.safetensors").write_bytes(safetensors(6, 1 << 20))
        (self.upload / "sub" / "vocab.txt").write_text("a\nb\n")
        self.large = folder / "large.bin"
        self.large.write_bytes(os.urandom(12 << 20))

    def commit_of(self) -> str:
        return self.api.model_info(self.repo).sha

    def paths(self, revision: str | None = None) -> set[str]:
        return set(self.api.list_repo_files(self.repo, revision=revision))


@step("whoami, wrong token, no token")
def _(world: World) -> None:
    assert world.api.whoami()["name"] == ALICE_NAME
    for wrong in ("hf_wrong", BOB if SEALED else READER[:-1]):
        error = raises(HfHubHTTPError, world.api.whoami, token=wrong)
        assert error.response.status_code == 401, error
    raises(HfHubHTTPError, world.api.create_repo, world.repo, token="hf_wrong")
    status, headers, _ = request("POST", "/api/repos/create", None, b"{}")
    assert (status, headers["X-Error-Message"]) == (401, "Invalid credentials in Authorization header")


@step("create repo")
def _(world: World) -> None:
    assert str(world.api.create_repo(world.repo)).endswith(world.repo)
    assert raises(HfHubHTTPError, world.api.create_repo, world.repo).response.status_code == 409
    assert str(world.api.create_repo(world.repo, exist_ok=True)).endswith(world.repo)
    assert world.api.repo_exists(world.repo) and not world.api.repo_exists(f"{ALICE_NAME}/none")
    error = raises(HfHubHTTPError, world.api.create_repo, f"{BOB_NAME}/taken")
    assert error.response.status_code == 403, error
    if SEALED:
        return
    error = raises(HfHubHTTPError, world.api.create_repo, f"{world.repo}-2", token=READER)
    assert error.response.status_code == 403 and "only read" in str(error), error


@step("upload file (regular)")
def _(world: World) -> None:
    before = world.commit_of()
    done = world.api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=world.repo)
    assert done.oid == world.commit_of() != before
    # What was a draft is a revision now, and the draft's own name is gone.
    assert not SEALED or raises(RevisionNotFoundError, world.api.model_info, world.repo, revision=before)
    assert world.paths() == {"README.md"}


@step("upload folder (regular and large)")
def _(world: World) -> None:
    world.api.upload_folder(folder_path=world.upload, repo_id=world.repo)
    assert world.paths() >= {"README.md", "config.json", "empty.txt", "model.safetensors", "sub/vocab.txt"}
    again = world.commit_of()
    world.api.upload_folder(folder_path=world.upload, repo_id=world.repo)
    assert world.commit_of() == again, "what is there already made a revision"


@step("upload of one changed tensor")
def _(world: World) -> None:
    weights = bytearray((world.upload / "model.safetensors").read_bytes())
    weights[3 << 20 : (3 << 20) + 100] = os.urandom(100)
    (world.upload / "model.safetensors").write_bytes(weights)
    world.api.upload_file(
        path_or_fileobj=world.upload / "model.safetensors", path_in_repo="model.safetensors", repo_id=world.repo
    )
    wanted = hashlib.sha256(weights).hexdigest()
    assert world.api.get_paths_info(world.repo, ["model.safetensors"])[0].lfs.sha256 == wanted


# A sealed hub takes parts of 64 MiB: there it is one.
@step("upload by git-lfs" if SEALED else "upload in parts (git-lfs multipart)")
def _(world: World) -> None:
    # A file object makes every release use git-lfs.
    with world.large.open("rb") as file:
        world.api.upload_file(path_or_fileobj=file, path_in_repo="large.bin", repo_id=world.repo)
    wanted = hashlib.sha256(world.large.read_bytes()).hexdigest()
    found = world.api.get_paths_info(world.repo, ["large.bin", "none", "sub"])
    assert [entry.path for entry in found] == ["large.bin", "sub"]
    assert (found[0].lfs.sha256, found[0].size) == (wanted, 12 << 20)


@step("download file")
def _(world: World) -> None:
    path = hf_hub_download(world.repo, "model.safetensors", cache_dir=world.cache, token=ALICE)
    assert Path(path).read_bytes() == (world.upload / "model.safetensors").read_bytes()
    assert Path(hf_hub_download(world.repo, "empty.txt", cache_dir=world.cache, token=ALICE)).read_bytes() == b""
    raises(EntryNotFoundError, hf_hub_download, world.repo, "none.bin", cache_dir=world.cache, token=ALICE)
    missing = {"cache_dir": world.cache, "token": ALICE, "revision": "none"}
    raises(RevisionNotFoundError, hf_hub_download, world.repo, "config.json", **missing)


@step("download snapshot")
def _(world: World) -> None:
    folder = Path(snapshot_download(world.repo, cache_dir=world.cache, token=ALICE))
    assert folder.name == world.commit_of()
    assert (folder / "large.bin").read_bytes() == world.large.read_bytes()
    assert (folder / "README.md").read_text() == CARD
    assert (folder / "sub" / "vocab.txt").read_text() == "a\nb\n"


@step("resume a download after a cut")
def _(world: World) -> None:
    cutting = Cutting(most=5 << 20, cuts=2)
    path = hf_hub_download(
        world.repo, "large.bin", cache_dir=world.folder / "cut", token=ALICE, endpoint=cutting.url
    )
    assert cutting.done == 2, "nothing was cut"
    assert Path(path).read_bytes() == world.large.read_bytes()


@step("list, search, filter, sort, pages")
def _(world: World) -> None:
    name = world.repo.split("/")[1]
    find = lambda **what: [model.id for model in world.api.list_models(**what)]
    for what in (
        {"search": name.upper()}, {"author": ALICE_NAME}, {"filter": ["tiny", "license:mit"]},
        {"pipeline_tag": "text-generation"}, {"sort": "created_at"}, {"gated": SEALED},
    ):  # fmt: skip
        assert world.repo in find(**what), what
    for what in ({"search": "no-such-model"}, {"author": "nobody"}, {"filter": "huge"}, {"gated": not SEALED}):
        assert world.repo not in find(**what), what
    for n in range(3):
        world.api.create_repo(f"{world.repo}-page-{n}")
    all_of_them = find(author=ALICE_NAME, search=f"{name}-page")
    assert len(all_of_them) == 3 and len(find(author=ALICE_NAME, limit=2)) == 2
    path, seen = f"/api/models?author={ALICE_NAME}&search={name}-page&limit=1", []
    while path:
        _, headers, body = request("GET", path, ALICE)
        seen += [model["id"] for model in json.loads(body)]
        path = headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert sorted(seen) == sorted(all_of_them) and len(seen) == 3, seen
    for n in range(3):
        world.api.delete_repo(f"{world.repo}-page-{n}")
    full = next(iter(world.api.list_models(search=name, full=True, cardData=True)))
    assert full.card_data["license"] == "mit" and len(full.siblings) > 4
    assert "license:mit" in [tag["id"] for tag in json.loads(request("GET", "/api/models-tags-by-type", ALICE)[2])["license"]]


@step("tree and file facts")
def _(world: World) -> None:
    tree = lambda *where, **how: {entry.path for entry in world.api.list_repo_tree(world.repo, *where, **how)}
    assert "sub" in tree() and "sub/vocab.txt" not in tree()
    assert "sub/vocab.txt" in tree(recursive=True, expand=True)
    assert tree("sub") == {"sub/vocab.txt"}
    raises(EntryNotFoundError, tree, "none")
    info = world.api.model_info(world.repo, files_metadata=True)
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert sizes["large.bin"] == 12 << 20
    _, headers, body = request("GET", f"/api/models/{world.repo}/tree/main?recursive=true&limit=2", ALICE)
    assert len(json.loads(body)) == 2 and 'rel="next"' in headers["Link"]
    for n in range(3):
        world.api.upload_file(path_or_fileobj=b"x", path_in_repo=f"mäßig 50%/ü {n}.txt", repo_id=world.repo)
    folder = urllib.parse.quote("mäßig 50%")
    path, seen = f"/api/models/{world.repo}/tree/main/{folder}?limit=1", []
    while path:
        _, headers, body = request("GET", path, ALICE)
        seen += [entry["path"] for entry in json.loads(body)]
        path = headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert seen == [f"mäßig 50%/ü {n}.txt" for n in range(3)] and set(seen) == tree("mäßig 50%")
    world.api.delete_folder("mäßig 50%", repo_id=world.repo)


@step("tags, branches, refs, history")
def _(world: World) -> None:
    first = world.api.list_repo_commits(world.repo)[-1].commit_id
    # Slashes in tags, and branches, are a folder's; a sealed model's first revision is no empty one.
    old = "v0" if SEALED else "old/v0"
    world.api.create_tag(world.repo, tag="v1", tag_message="first")
    world.api.create_tag(world.repo, tag=old, revision=first)
    assert raises(HfHubHTTPError, world.api.create_tag, world.repo, tag="v1").response.status_code == 409
    world.api.create_tag(world.repo, tag="v1", exist_ok=True)
    refs = world.api.list_repo_refs(world.repo)
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": world.commit_of(), old: first}
    assert world.paths(old) == ({"README.md"} if SEALED else set()) and "large.bin" in world.paths("v1")
    if SEALED:
        error = raises(BadRequestError, world.api.create_tag, world.repo, tag="old/v0")
        assert "cannot be a tag" in str(error), error
        error = raises(BadRequestError, world.api.create_branch, world.repo, branch="trial")
        assert "one branch" in str(error), error
        given = {"path_or_fileobj": b"x", "path_in_repo": "x", "repo_id": world.repo, "revision": "trial"}
        raises(HfHubHTTPError, world.api.upload_file, **given)
    else:
        world.api.create_branch(world.repo, branch="trial", revision="v1")
        world.api.upload_file(path_or_fileobj=b"x", path_in_repo="trial.txt", repo_id=world.repo, revision="trial")
        assert "trial.txt" in world.paths("trial") and "trial.txt" not in world.paths()
        world.api.delete_branch(world.repo, branch="trial")
    world.api.delete_tag(world.repo, tag=old)
    raises(RevisionNotFoundError, world.api.delete_tag, world.repo, tag=old)
    history = world.api.list_repo_commits(world.repo)
    assert len(history) >= 4 and history[0].commit_id == world.commit_of() and history[0].authors == [ALICE_NAME]


@step("model card")
def _(world: World) -> None:
    card = ModelCard.load(world.repo, token=ALICE)
    assert (card.data.license, card.data.tags) == ("mit", ["tiny"])
    card.data.tags = ["tiny", "new"]
    if huggingface_hub.__version__.startswith("1."):
        # Its `push_to_hub` asks huggingface.co whether the card is right, whatever `HF_ENDPOINT` says.
        world.api.upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=world.repo)
    else:
        card.push_to_hub(world.repo, token=ALICE)
    assert "new" in world.api.model_info(world.repo).tags
    broken = b"---\nlicense: mit\n"
    raises((ValueError, HfHubHTTPError), world.api.upload_file,
           path_or_fileobj=broken, path_in_repo="README.md", repo_id=world.repo)  # fmt: skip


@step("safetensors metadata")
def _(world: World) -> None:
    metadata = world.api.get_safetensors_metadata(world.repo)
    assert set(metadata.weight_map.values()) == {"model.safetensors"} and len(metadata.weight_map) == 6
    status, _, body = request("GET", f"/api/models/{world.repo}/safetensors-metadata/model.safetensors", ALICE)
    assert status == 200 and "layer.5" in json.loads(body)["headers"]["model.safetensors"]


@step("delete file and folder, copy, stale parent")
def _(world: World) -> None:
    before = world.commit_of()
    world.api.delete_file("config.json", world.repo)
    world.api.delete_folder("sub", world.repo)
    assert not world.paths() & {"config.json", "sub/vocab.txt"}
    raises(HfHubHTTPError, world.api.delete_file, "config.json", world.repo)
    copy = CommitOperationCopy(src_path_in_repo="large.bin", path_in_repo="copied/large.bin")
    world.api.create_commit(world.repo, [copy], commit_message="copy")
    found = world.api.get_paths_info(world.repo, ["copied/large.bin"])
    assert found[0].lfs.sha256 == hashlib.sha256(world.large.read_bytes()).hexdigest()
    stale = {"path_or_fileobj": b"x", "path_in_repo": "x", "repo_id": world.repo, "parent_commit": before}
    assert raises(HfHubHTTPError, world.api.upload_file, **stale).response.status_code == 412


@step("gated answer")
def _(world: World) -> None:
    bob = HfApi(endpoint=BOB_URL, token=BOB)
    refused = {"cache_dir": world.folder / "bob", "token": BOB, "endpoint": BOB_URL}
    if SEALED:
        # A sealed model is gated from the first; public is another revision, of the same objects.
        before = world.commit_of()
        raises(BadRequestError, world.api.update_repo_settings, world.repo, gated=False)
        world.api.update_repo_settings(world.repo, **visibility("public"))
        assert world.commit_of() != before and world.api.model_info(world.repo).gated is False
        wait_until(lambda: bob.model_info(world.repo).gated is False)
        path = hf_hub_download(world.repo, "large.bin", cache_dir=world.folder / "public", token=False, endpoint=BOB_URL)
        assert Path(path).read_bytes() == world.large.read_bytes()
        world.api.update_repo_settings(world.repo, gated="manual")
        world.api.upload_file(path_or_fileobj=b"more", path_in_repo="more.txt", repo_id=world.repo)
        wait_until(lambda: bob.model_info(world.repo).gated == "manual")
    else:
        bob.auth_check(world.repo)
        world.api.update_repo_settings(world.repo, gated="auto")
        assert bob.model_info(world.repo).gated == "auto"
    error = raises(GatedRepoError, hf_hub_download, world.repo, "large.bin", **refused)
    assert "ask its owner" in str(error), error
    raises(GatedRepoError, bob.auth_check, world.repo)
    world.api.auth_check(world.repo)
    token = BOB if SEALED else None
    status, headers, _ = request("HEAD", f"{BOB_URL}/{world.repo}/resolve/main/large.bin", token)
    assert (status, headers["X-Error-Code"]) == (403, "GatedRepo") and headers["X-Request-Id"]
    if not SEALED:
        world.api.update_repo_settings(world.repo, gated=False)


def visibility(word: str) -> dict:
    """As each release of the client says it."""
    return {"visibility": word} if "visibility" in HfApi.update_repo_settings.__doc__ else {"private": word == "private"}


def wait_until(condition) -> None:
    """Another account's hub looks at most a few seconds back."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


@step("private: others find nothing")
def _(world: World) -> None:
    bob = HfApi(endpoint=BOB_URL, token=BOB)
    if SEALED:
        hidden = f"{world.repo}-hidden"
        world.api.create_repo(hidden, private=True)
        world.api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=hidden)
        assert world.api.model_info(hidden).private
        raises(RepositoryNotFoundError, bob.model_info, hidden)
        assert hidden not in [model.id for model in bob.list_models()]
        for url, token in [(URL, None), (BOB_URL, BOB), (BOB_URL, None)]:
            ids = (hidden, f"{ALICE_NAME}/none")
            answers = [request("GET", f"{url}/api/models/{id}", token)[::2] for id in ids]
            assert answers[0] == answers[1], answers
        world.api.delete_repo(hidden)
        raises(RepositoryNotFoundError, world.api.model_info, hidden)
        # Nor does a draft show anywhere but on its own machine.
        draft = f"{world.repo}-draft"
        world.api.create_repo(draft)
        raises(RepositoryNotFoundError, bob.model_info, draft)
        world.api.delete_repo(draft)
        return
    world.api.update_repo_settings(world.repo, **visibility("private"))
    raises(RepositoryNotFoundError, bob.model_info, world.repo)
    raises(RepositoryNotFoundError, HfApi(endpoint=URL, token=False).model_info, world.repo)
    assert world.repo not in [model.id for model in bob.list_models()]
    answers = [request("GET", f"/api/models/{id}", token)[::2] for id in (world.repo, "alice/none") for token in (BOB, None)]
    assert answers == answers[:1] * 4, answers
    assert world.api.model_info(world.repo).private


@step("naming another's hash gives no bytes")
def _(world: World) -> None:
    sha256, size = hashlib.sha256(world.large.read_bytes()).hexdigest(), 12 << 20
    if SEALED:
        # The content that bob could read while it was public is his to name; this one never was.
        sha256, size = hashlib.sha256(b"more").hexdigest(), 4
    repo = f"{BOB_NAME}/{world.repo.split('/')[1]}"
    bob = HfApi(endpoint=BOB_URL, token=BOB)
    bob.create_repo(repo)
    line = lambda key, **value: json.dumps({"key": key, "value": value}) + "\n"
    for oid, length in ((sha256, size), (sha256, None), ("0" * 64, size)):
        given = {"size": length} if length else {}
        body = line("header", summary="mine") + line("lfsFile", path="x.bin", algo="sha256", oid=oid, **given)
        status, headers, _ = request("POST", f"{BOB_URL}/api/models/{repo}/commit/main", BOB, body.encode())
        assert (status, headers["X-Error-Code"]) == (400, "NotUploaded"), headers
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": sha256, "size": size}]}
    path = f"{BOB_URL}/{repo}.git/info/lfs/objects/batch"
    actions = json.loads(request("POST", path, BOB, json.dumps(batch).encode())[2])["objects"][0]["actions"]
    assert request("POST", actions["verify"]["href"], BOB, b"{}")[0] == 400
    assert request("PUT", actions["upload"]["href"].replace("size=", "size=1"), None, b"x")[0] == 403
    assert request("PUT", actions["upload"]["href"], None, b"else")[0] == 400
    assert bob.list_repo_files(repo) == []
    bob.delete_repo(repo)


@step("unsafe paths")
def _(world: World) -> None:
    before = world.commit_of()
    for path in ("../x", "/x", "a/../../x", ".git/config", "a\\b", "x\n", ""):
        lines = [{"key": "header", "value": {"summary": "bad"}},
                 {"key": "file", "value": {"path": path, "content": "eA==", "encoding": "base64"}}]  # fmt: skip
        body = "\n".join(map(json.dumps, lines)).encode()
        assert request("POST", f"/api/models/{world.repo}/commit/main", ALICE, body)[0] == 400, path
        body = json.dumps({"files": [{"path": path, "sample": "", "size": 1}]}).encode()
        assert request("POST", f"/api/models/{world.repo}/preupload/main", ALICE, body)[0] == 400, path
    assert world.commit_of() == before
    raises(BadRequestError, world.api.create_repo, f"{world.repo}-data", repo_type="dataset")


@step("move and delete repo")
def _(world: World) -> None:
    moved = f"{world.repo}-moved"
    raises(HfHubHTTPError, HfApi(endpoint=BOB_URL, token=BOB).delete_repo, world.repo)
    if SEALED:
        # What is published keeps the name that it was signed with; a draft has none yet.
        error = raises(BadRequestError, world.api.move_repo, world.repo, moved)
        assert "keeps its name" in str(error), error
        world.api.delete_repo(world.repo)
        assert not world.api.repo_exists(world.repo)
        world.api.create_repo(world.repo)
    world.api.move_repo(world.repo, moved)
    assert not world.api.repo_exists(world.repo) and world.api.repo_exists(moved)
    world.api.delete_repo(moved)
    assert not world.api.repo_exists(moved)


def main() -> None:
    world = World(sys.argv[1], Path(sys.argv[2]))
    for name, function in STEPS.items():
        try:
            function(world)
            print(json.dumps({"step": name, "ok": True}), flush=True)
        except Exception:
            print(json.dumps({"step": name, "ok": False, "why": traceback.format_exc()}), flush=True)


if __name__ == "__main__":
    main()
