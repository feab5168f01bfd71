"""The unmodified `aleph-sdk-python` against our local Aleph node.

Most tests start a node of their own: the example `localnet`, named by ALEPHLAB_LOCALNET or found among
the built programs. The last reads and verifies what quickstart has posted.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aleph.sdk.chains.common import get_verification_buffer
from aleph.sdk.chains.ethereum import ETHAccount, verify_signature
from aleph.sdk.client import AlephHttpClient, AuthenticatedAlephHttpClient
from aleph.sdk.exceptions import BadSignatureError, ForgottenMessageError, InvalidMessageError, ResourceNotFoundError
from aleph.sdk.query.filters import MessageFilter, PostFilter
from aleph_message.models import AlephMessage, Chain, ItemType, MessageType, Payment, PaymentType
from aleph_message.status import MessageStatus
from support import PROGRAMS, Stack

NODE = Path(os.environ.get("ALEPHLAB_LOCALNET", PROGRAMS / "examples" / "localnet"))
CREDIT = Payment(chain=Chain.ETH, type=PaymentType.credit, receiver=None)
CHANNEL = "ALEPHLAB-TEST"
# A real node makes the second post of every stored file wait 30 s; ours must not.
QUICK_SECONDS = 15


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    """The address of a node with an empty folder."""
    if not NODE.exists():
        pytest.skip(f"no {NODE}: build it with `cargo build --release -p alephlab-localnet --example localnet`")
    data = tmp_path_factory.mktemp("localnet")
    command = [NODE, "--port", "0", "--data", data, "--faults"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            yield process.stdout.readline().strip().rstrip("/")
        finally:
            process.terminate()


def account(seed: int) -> ETHAccount:
    """A throw-away account."""
    return ETHAccount(private_key=bytes([seed]) * 32)


def run(node: str, seed: int, job: Callable) -> None:
    """Runs `job(client)` as the account of `seed`."""

    async def main() -> None:
        async with AuthenticatedAlephHttpClient(account(seed), api_server=node) as client:
            await asyncio.wait_for(job(client), timeout=60)

    asyncio.run(main())


async def verify(client: AlephHttpClient, message: AlephMessage) -> None:
    """Checks content hash and signature with the SDK's own means, trusting nothing the node says."""
    raw = message.item_content.encode() if message.item_type == ItemType.inline else await client.download_file(
        message.item_hash
    )
    assert hashlib.sha256(raw).hexdigest() == message.item_hash
    stated = message.content.model_dump(exclude_none=True, mode="json")
    signed = json.loads(raw)
    assert {name: stated[name] for name in signed if name in stated} == {
        name: value for name, value in signed.items() if name in stated
    }
    assert message.chain == Chain.ETH
    buffer = get_verification_buffer(message.model_dump())
    verify_signature(message.signature, message.sender, buffer)


def test_post_is_created_amended_and_read(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        post, status = await client.create_post({"v": 1}, post_type="card", channel=CHANNEL, sync=True)
        assert status == MessageStatus.PROCESSED
        await verify(client, await client.get_message(post.item_hash))
        amend, status = await client.create_post(
            {"v": 2}, post_type="amend", ref=post.item_hash, channel=CHANNEL, sync=True
        )
        assert status == MessageStatus.PROCESSED
        posts = await client.get_posts(post_filter=PostFilter(hashes=[post.item_hash]), ignore_invalid_messages=False)
        assert [(p.content, p.item_hash, p.original_item_hash) for p in posts.posts] == [
            ({"v": 2}, amend.item_hash, post.item_hash)
        ]

    run(node, 11, job)


def test_post_with_content_in_storage_verifies(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        post, status = await client.create_post({"x": "y" * 60_000}, post_type="large", sync=True)
        assert (status, post.item_type) == (MessageStatus.PROCESSED, ItemType.storage)
        await verify(client, await client.get_message(post.item_hash))

    run(node, 12, job)


def test_message_that_is_not_waited_for_is_processed_in_time(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        post, status = await client.create_post({}, post_type="later")
        assert status == MessageStatus.PENDING
        deadline = time.monotonic() + QUICK_SECONDS
        while await client.get_message_status(post.item_hash) != MessageStatus.PROCESSED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    run(node, 13, job)


def test_rejected_message_says_why(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        content = {"address": client.account.get_address(), "time": time.time(), "type": "amend"}
        content |= {"ref": "e" * 64, "content": {}}
        with pytest.raises(InvalidMessageError):
            await client.submit(content=content, message_type=MessageType.post, sync=True)
        message = await client.generate_signed_message(MessageType.post, content, channel="ALEPH-CLOUDSOLUTIONS")
        error = await client.get_message_error(message.item_hash)
        assert (error["error_code"], len(error["details"]["errors"])) == (101, 1)

    run(node, 14, job)


def test_aggregate_is_merged(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        address = client.account.get_address()
        assert await client.get_aggregate(address, "profile") is None
        for content in ({"a": 1, "b": 1}, {"b": 2}):
            _, status = await client.create_aggregate("profile", content, channel=CHANNEL, sync=True)
            assert status == MessageStatus.PROCESSED
        assert await client.fetch_aggregate(address, "profile") == {"a": 1, "b": 2}
        assert await client.fetch_aggregates(address) == {"profile": {"a": 1, "b": 2}}

    run(node, 15, job)


def test_small_file_is_stored_quickly_read_back_and_forgotten(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        address, content = client.account.get_address(), os.urandom(50_000)
        begin = time.monotonic()
        store, status = await client.create_store(file_content=content, ref="data", payment=CREDIT, sync=True)
        assert status == MessageStatus.PROCESSED
        assert time.monotonic() - begin < QUICK_SECONDS
        await verify(client, await client.get_message(store.item_hash))
        assert await client.download_file(store.content.item_hash) == content
        stored = await client.get_stored_content(store.item_hash)
        assert (stored.hash, stored.error) == (store.content.item_hash, None)
        files = await client.get_account_files(address)
        assert [(f.item_hash, f.size) for f in files.files] == [(store.item_hash, 50_000)]
        balances = await client.get_balances(address)
        assert 9_999_990 <= balances.credit_balance <= 10_000_000
        _, status = await client.forget([store.item_hash], reason="test", sync=True)
        assert status == MessageStatus.PROCESSED
        with pytest.raises(ForgottenMessageError):
            await client.get_message(store.item_hash)

    run(node, 16, job)


def test_small_file_is_stored_without_waiting(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        store, _ = await client.create_store(file_content=b"async", payment=CREDIT)
        deadline = time.monotonic() + QUICK_SECONDS
        while await client.get_message_status(store.item_hash) != MessageStatus.PROCESSED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    run(node, 17, job)


def test_store_by_hold_needs_payment(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        with pytest.raises(aiohttp.ClientResponseError) as refused:
            await client.create_store(file_content=b"hold", sync=True)
        assert refused.value.status == 402
        with pytest.raises(ResourceNotFoundError):
            await client.download_file(hashlib.sha256(b"hold").hexdigest())

    run(node, 18, job)


def test_price_of_a_store_is_estimated(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        price = await client.get_store_estimated_price(storage_size_mib=100)
        assert price.payment_type == "hold" and float(price.required_tokens) > 0

    run(node, 19, job)


def test_new_messages_are_watched(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        watched = client.watch_messages(MessageFilter(channels=["ALEPHLAB-WATCH"]))
        first = asyncio.ensure_future(anext(aiter(watched)))
        post, _ = await client.create_post({"n": 1}, post_type="watched", channel="ALEPHLAB-WATCH", sync=True)
        message = await asyncio.wait_for(first, timeout=20)
        assert message.item_hash == post.item_hash
        await verify(client, message)
        await watched.aclose()

    run(node, 20, job)


def test_pages_and_cursors_show_the_same_messages(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        posts = [
            (await client.create_post({"n": n}, post_type="many", channel="ALEPHLAB-MANY", sync=True))[0].item_hash
            for n in range(7)
        ]
        wanted = MessageFilter(channels=["ALEPHLAB-MANY"], message_types=[MessageType.post])
        paged = []
        for page in (1, 2, 3):
            answer = await client.get_messages(
                page_size=3, page=page, message_filter=wanted, ignore_invalid_messages=False
            )
            assert answer.pagination_total == 7
            paged += [message.item_hash for message in answer.messages]
        walked = [message.item_hash async for message in client.get_messages_iterator(wanted)]
        assert paged == walked == posts[::-1]
        many = [post.item_hash async for post in client.get_posts_iterator(PostFilter(types=["many"]))]
        assert many == walked

    run(node, 21, job)


def test_verification_refuses_another_signature(node: str) -> None:
    async def job(client: AuthenticatedAlephHttpClient) -> None:
        one, _ = await client.create_post({"n": 1}, post_type="forged", sync=True)
        two, _ = await client.create_post({"n": 2}, post_type="forged", sync=True)
        message = await client.get_message(one.item_hash)
        with pytest.raises(BadSignatureError):
            await verify(client, message.model_copy(update={"signature": two.signature}))

    run(node, 22, job)


def test_every_message_that_quickstart_posted_verifies(stack: Stack) -> None:
    async def job() -> None:
        kinds = set()
        async with AlephHttpClient(api_server=stack.aleph_url.rstrip("/")) as client:
            messages = [message async for message in client.get_messages_iterator()]
            total = (await client.get_messages(page_size=1)).pagination_total
            # The SDK drops a message that it cannot read, so reading fewer than there are is a failure.
            assert len(messages) == total > 0
            for message in messages:
                await verify(client, message)
                kinds.add(getattr(message.content, "type", message.type))
                if message.type == MessageType.store:
                    content = await client.download_file(message.content.item_hash)
                    assert hashlib.sha256(content).hexdigest() == message.content.item_hash
                    assert content.startswith(b"ALEPHDS1"), "only sealed objects are stored"
        assert {"aleph-dataset-head", "aleph-dataset-grant", "alephlab-model", MessageType.store} <= kinds

    asyncio.run(job())
