# ruff: noqa: N802, D102 - names and meaning of the methods are CRI's: proto/cri/api.proto
"""CRI's ImageService."""

import asyncio
import json
from collections.abc import AsyncIterator

from agent.cri import api_pb2 as cri
from agent.cri import api_pb2_grpc
from agent.runtime import views
from agent.runtime.answers import cancellable, stream, unary
from agent.runtime.errors import InvalidArgument
from agent.runtime.images.pull import Credentials, Puller
from agent.runtime.images.store import Image, ImageStore
from agent.runtime.stats import Sampler


class ImageService(api_pb2_grpc.ImageServiceServicer):
    """Images on this node."""

    def __init__(self, store: ImageStore, puller: Puller) -> None:
        self._store = store
        self._sampler = Sampler()
        self._puller = puller

    @unary
    async def ListImages(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=map(views.image_item, self._images(request.filter)))

    @stream
    async def StreamImages(self, request: cri.StreamImagesRequest) -> AsyncIterator[cri.StreamImagesResponse]:
        for image in self._images(request.filter):
            yield cri.StreamImagesResponse(images=[views.image_item(image)])

    def _images(self, wanted: cri.ImageFilter) -> list[Image]:
        if not wanted.image.image:
            return self._store.all()
        found = self._store.find(wanted.image.image)
        return [found] if found else []

    @unary
    async def ImageStatus(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        image = self._store.find(request.image.image)
        if image is None:
            return cri.ImageStatusResponse()
        info = {"info": json.dumps({"config": image.config, "layers": image.layers})} if request.verbose else {}
        return cri.ImageStatusResponse(image=views.image_item(image), info=info)

    @cancellable
    async def PullImage(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        if not request.image.image:
            raise InvalidArgument("image name is empty")
        auth = request.auth
        credentials = Credentials(auth.username, auth.password, auth.auth, auth.identity_token, auth.registry_token)
        image = await self._puller.pull(request.image.image, credentials)
        return cri.PullImageResponse(image_ref=image.id)

    @unary
    async def RemoveImage(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        self._store.remove(request.image.image)
        await self._store.collect_in_thread()
        return cri.RemoveImageResponse()

    @unary
    async def ImageFsInfo(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        images, containers = await asyncio.to_thread(self._disk_usage)
        return cri.ImageFsInfoResponse(image_filesystems=[images], container_filesystems=[containers])

    def _disk_usage(self) -> tuple[cri.FilesystemUsage, cri.FilesystemUsage]:
        root = self._store.root
        return self._sampler.disk("images", [self._store.blobs, root / "l"]), self._sampler.disk(
            "containers", [root / "containers"]
        )
