"""Images from a real registry, unpacked as their layers say."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as cri_pb
from agent.runtime.images.layout import File, make_layer
from tests.integration.runtime.harness import BUSYBOX, CriClient
from tests.support.images import PASSWORD, USER, Registry, serve_registry


async def pull(cri: CriClient, name: str, **auth: str) -> str:
    request = cri_pb.PullImageRequest(image=cri_pb.ImageSpec(image=name), auth=cri_pb.AuthConfig(**auth))
    return (await cri.images.PullImage(request)).image_ref


async def image(cri: CriClient, name: str) -> cri_pb.Image | None:
    answer = await cri.images.ImageStatus(cri_pb.ImageStatusRequest(image=cri_pb.ImageSpec(image=name)))
    return answer.image if answer.HasField("image") else None


async def test_a_pulled_image_is_known_by_tag_digest_and_id_and_runs(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("web:1", config={"Cmd": ["echo", "from the image"], "User": "33"})
    image_id = await pull(cri, name)
    found = await image(cri, name)
    assert found
    assert (found.id, list(found.repo_tags), found.uid.value) == (image_id, [name], 33)
    assert found.size > 1_000_000
    assert [digest.partition("@")[0] for digest in found.repo_digests] == [f"{registry.host}/web"]
    for other_name in (image_id, image_id.removeprefix("sha256:"), found.repo_digests[0]):
        assert await image(cri, other_name) == found
    status, log = await cri.run_to_end(config=cri.container_config(image=name))
    assert (status.exit_code, log) == (0, "from the image")
    assert status.image_id == image_id
    assert status.user.linux.uid == 33


async def test_pulling_by_digest_gives_that_image(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("web:1", config={"Labels": {"v": "1"}})
    first = await pull(cri, name)
    found = await image(cri, name)
    assert found
    assert await pull(cri, await registry.push("web:1", config={"Labels": {"v": "2"}})) != first
    assert await pull(cri, found.repo_digests[0]) == first
    moved = await image(cri, name)
    assert moved
    assert moved.id != first


async def test_layers_are_applied_one_over_another(cri: CriClient, registry: Registry) -> None:
    below = make_layer(
        [
            File("data/", mode=0o700, uid=5),
            *(File(f"data/{name}", name.encode()) for name in ("kept", "gone", "changed")),
            File("full/", mode=0o755),
            File("full/old", b"old"),
            File("real/", mode=0o755),
            File("link", link="real"),
        ]
    )
    above = make_layer(
        [
            File("data/.wh.gone"),  # and data/ itself is not listed: it stays as it was
            File("data/changed", b"new", mode=0o4755, uid=7, gid=8),
            File("full/new", b"new"),
            File("full/.wh..wh..opq"),
            File("link/through", b"through the link"),
        ]
    )
    name = await registry.push("layers:1", layers=[below, above])
    await pull(cri, name)
    script = (
        "ls data full; cat data/changed; stat -c ' %a %u:%g' data/changed; stat -c '%a %u' data; "
        "cat real/through; test -L link && echo; echo written > data/kept; cat data/kept"
    )
    _, log = await cri.run_to_end(config=cri.container_config("sh", "-c", script, image=name))
    expected = "data:\nchanged\nkept\n\nfull:\nnew\nnew 4755 7:8\n700 5\nthrough the link\nwritten"
    assert log == expected
    # What one container writes another doesn't see.
    _, log = await cri.run_to_end(config=cri.container_config("cat", "data/kept", image=name))
    assert log == "kept"


async def test_a_layer_cannot_write_outside_its_root(cri: CriClient, registry: Registry, tmp_path: Path) -> None:
    target = tmp_path / "outside"
    target.mkdir()
    evil = make_layer(
        [
            File("escape", link=str(target)),
            File("escape/by-link", b"x"),
            File(f"../../../../../../../..{target}/by-dots", b"x"),
        ]
    )
    await pull(cri, await registry.push("evil:1", layers=[evil]))
    assert list(target.iterdir()) == []


async def test_a_missing_image_is_not_found_and_says_so(cri: CriClient, registry: Registry) -> None:
    await registry.push("web:1")
    for name in (f"{registry.host}/nope:1", f"{registry.host}/web:nope"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pull(cri, name)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        reason = f'failed to resolve reference "{name}": {name}: not found'
        assert caught.value.details() == f'failed to pull and unpack image "{name}": {reason}'


async def test_a_registry_that_is_away_is_unavailable(cri: CriClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pull(cri, "127.0.0.1:1/web:1")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "connection refused" in (caught.value.details() or "")


async def test_credentials_of_the_request_are_used(cri: CriClient, tmp_path: Path) -> None:
    async with serve_registry(tmp_path / "private", authenticated=True) as registry:
        name = await registry.push("secret:1")
        for auth in ({}, {"username": USER, "password": "wrong"}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pull(cri, name, **auth)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert await pull(cri, name, username=USER, password=PASSWORD)


async def test_the_same_image_pulled_many_times_at_once_is_one(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("web:1", config={"Labels": {"many": "1"}})
    assert len(set(await asyncio.gather(*(pull(cri, name) for _ in range(8))))) == 1


async def test_removed_images_are_gone_but_containers_of_them_live_on(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("web:1", layers=[make_layer([File("own", b"own layer")])])
    await pull(cri, name)
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, config=cri.container_config("sleep", "1000", image=name))
    for _ in range(2):
        await cri.images.RemoveImage(cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=name)))
    assert await image(cri, name) is None
    assert await cri.output(container, "cat", "/own") == "own layer"
    layers = cri.process.folder / "root" / "l"
    kept = len(list(layers.iterdir()))
    await cri.runtime.RemoveContainer(cri_pb.RemoveContainerRequest(container_id=container))
    await cri.images.RemoveImage(cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image="gone:1")))  # collects
    assert len(list(layers.iterdir())) == kept - 1


async def test_the_busybox_image_is_there_without_any_registry(cri: CriClient) -> None:
    assert await image(cri, BUSYBOX)
    assert await image(cri, "busybox") is None  # docker.io's is another
    _, log = await cri.run_to_end("sh", "-c", "id -un; for a in wget nc httpd sleep; do which $a; done")
    assert log.split() == ["root", "/bin/wget", "/bin/nc", "/bin/httpd", "/bin/sleep"]


@pytest.mark.parametrize("name", ["docker.io/UPPER/case", "a b", "web@sha256:short", "-x"])
async def test_what_is_no_image_name_is_an_invalid_argument(cri: CriClient, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pull(cri, name)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_pull_that_nobody_waits_for_is_given_up(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("slow:1", config={"Labels": {"v": "slow"}})
    request = cri_pb.PullImageRequest(image=cri_pb.ImageSpec(image=name))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.images.PullImage(request, timeout=0.001)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # The one that follows takes as long as the first would have, so that has had its time.
    await pull(cri, await registry.push("other:1", config={"Labels": {"v": "other"}}))
    assert await image(cri, name) is None
    assert await pull(cri, name)


async def test_one_caller_who_goes_away_leaves_the_pull_to_the_others(cri: CriClient, registry: Registry) -> None:
    name = await registry.push("shared:1", config={"Labels": {"v": "shared"}})
    request = cri_pb.PullImageRequest(image=cri_pb.ImageSpec(image=name))
    staying = asyncio.ensure_future(cri.images.PullImage(request))
    with pytest.raises(grpc.aio.AioRpcError):
        await cri.images.PullImage(request, timeout=0.01)
    assert (await staying).image_ref


async def test_an_image_removed_many_times_at_once_is_gone_for_each(cri: CriClient, registry: Registry) -> None:
    image_id = await pull(cri, await registry.push("gone:1", config={"Labels": {"v": "gone"}}))

    async def remove() -> bool:
        await cri.images.RemoveImage(cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=image_id)))
        return await image(cri, image_id) is None

    assert await asyncio.gather(*(remove() for _ in range(5))) == [True] * 5
