"""A client of the Jupyter Server API and of a kernel's WebSocket, as small as it can be."""

import json
import urllib.request
import uuid

import websocket

from support import Stack


def ask(stack: Stack, path: str, body: dict | None = None) -> dict:
    """One call of the Jupyter Server API."""
    request = urllib.request.Request(
        stack.gateway_url + path, data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {stack.token}"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Page:
    """One session of a client, with the legacy framing."""

    def __init__(self, stack: Stack, kernel: str, session: str) -> None:
        url = f"{stack.gateway_url.replace('http', 'ws')}/api/kernels/{kernel}/channels?session_id={session}"
        self.socket = websocket.create_connection(url, header=[f"Authorization: token {stack.token}"], timeout=60)

    def run(self, code: str) -> str:
        """Sends a cell; its id."""
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "session": "t", "username": "t", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        whole = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(whole))
        return message

    def hear(self, message: str, until: str) -> list[dict]:
        """Everything that answers this cell, up to the first of type `until`."""
        heard = []
        while not heard or heard[-1]["header"]["msg_type"] != until:
            said = json.loads(self.socket.recv())
            if said["parent_header"].get("msg_id") == message:
                heard.append(said)
        return heard


def lines(heard: list[dict]) -> list[str]:
    streams = (said["content"]["text"] for said in heard if said["header"]["msg_type"] == "stream")
    return "".join(streams).splitlines()


def result(heard: list[dict]) -> str:
    (value,) = [said for said in heard if said["header"]["msg_type"] == "execute_result"]
    return value["content"]["data"]["text/plain"]
