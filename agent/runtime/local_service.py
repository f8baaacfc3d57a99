# ruff: noqa: N802 - methods of a gRPC service are named like those of CRI beside it
"""What CRI has no words for and the node's own command line needs: tagging, loading and looking into images.

A gRPC service on CRI's socket with JSON bodies, which the command line can call without generated code. Only root
reaches the socket.
"""

import asyncio
import json
from typing import Any

import grpc

from agent.runtime.answers import unary
from agent.runtime.errors import NotFound, RuntimeFailure
from agent.runtime.images import reference
from agent.runtime.images.store import Image, ImageStore

NAME = "wherry.node.v1.Images"


class LocalService:
    """Images by their names; one method a verb."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what answers for this service on a gRPC server."""
        return grpc.method_handlers_generic_handler(NAME, {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name), request_deserializer=json.loads, response_serializer=_encoded
            )
            for name in ("List", "Inspect", "Tag", "Remove", "Import")
        })  # fmt: skip

    def _known(self, name: str) -> Image:
        image = self._store.find_short(name)
        if image is None:
            raise NotFound(f"No such image: {name}")
        return image

    def _view(self, image: Image) -> dict[str, Any]:
        config = json.loads(self._store.blob(image.id).read_bytes())
        return {
            "id": image.id, "tags": image.tags, "digests": image.digests, "size": image.size,
            "manifest": image.blobs[0],
            "config": config, "layers": [str(self._store.layer(name)) for name in image.layers],
            "blobs": str(self._store.blobs),
        }  # fmt: skip

    @unary
    async def List(self, request: dict[str, Any]) -> Any:
        """Return all images."""
        return await asyncio.to_thread(lambda: [self._view(image) for image in self._store.all()])

    @unary
    async def Inspect(self, request: dict[str, Any]) -> Any:
        """Return one image."""
        return self._view(self._known(request["name"]))

    @unary
    async def Tag(self, request: dict[str, Any]) -> Any:
        """Give an image one more name."""
        image = self._known(request["name"])
        return self._view(self._store.name(image, reference.parse(request["as"]), image.blobs[0]))

    @unary
    async def Remove(self, request: dict[str, Any]) -> Any:
        """Take a name away; the image goes with its last one, or with `force`."""
        image = self._known(request["name"])
        gone = self._store.untag(image, request["name"], force=bool(request.get("force")))
        await self._store.collect_in_thread()
        return gone

    @unary
    async def Import(self, request: dict[str, Any]) -> Any:
        """Take an image from where skopeo can read it, such as docker-archive:/file or containers-storage:name."""
        store = self._store
        with store.installing() as scratch:
            argv = [
                "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-shared-blob-dir", str(store.blobs),
                request["source"], f"oci:{scratch / 'layout'}:image",
            ]  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, complaint = await process.communicate()
            if process.returncode != 0:
                raise RuntimeFailure(complaint.decode(errors="replace").strip().rpartition("\n")[2])
            index = json.loads((scratch / "layout" / "index.json").read_bytes())
            image: Image | None = None
            for name in request["names"]:
                image = await store.install(index["manifests"][0]["digest"], reference.parse(name))
            if image is None:
                raise RuntimeFailure("an image needs a name")
            return self._view(image)


def _encoded(answer: Any) -> bytes:
    return json.dumps(answer).encode()
