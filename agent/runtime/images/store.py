"""The images that are here: records, compressed blobs and unpacked layers under the runtime's root.

images/HEX.json   one image; HEX is its id, the digest of its configuration
blobs/sha256/     manifests, configurations and compressed layers, shared between images
l/NAME/           unpacked layers; NAME is short because 100 of them must fit into one mount option
tmp/              half done work; emptied at start
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import agent
from agent.runtime.errors import NotFound, RuntimeFailure
from agent.runtime.images import reference
from machinery.files import write_atomically

_PYTHON_PATH = str(Path(agent.__file__).resolve().parents[1])
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass
class Image:
    """An image.

    Attributes:
        id: digest of its configuration, "sha256:…".
        config: `config` of its configuration: Entrypoint, Cmd, Env, User, …
        layers: names in the layer store, lowest first.
        tags: full names with tags; `digests` full names with digests.
        size: bytes of its compressed layers and configuration.
        blobs: digests of all it consists of.
    """

    id: str
    config: dict[str, Any]
    layers: list[str]
    size: int
    blobs: list[str]
    tags: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Digests that stand for a layer together with all below it (OCI image spec, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else diff_id)
    return chain


def layer_name(chain_id: str) -> str:
    """The layer's folder: 64 bits of its digest."""
    return chain_id.removeprefix("sha256:")[:16]


class ImageStore:
    """All images of one root folder."""

    def __init__(self, root: Path, layers_in_use: Callable[[], Iterable[str]]) -> None:
        """Make a store.

        Args:
            root: absolute, without symbolic links.
            layers_in_use: names of layers that containers stand on; these are kept.
        """
        self.root = root
        self._layers_in_use = layers_in_use
        self._images: dict[str, Image] = {}
        self._installing = 0
        self._unpack_lock = asyncio.Lock()
        self._collect_lock = asyncio.Lock()

    @property
    def blobs(self) -> Path:
        """The folder of blobs, as an OCI layout's blobs/."""
        return self.root / "blobs"

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.blobs / digest.replace(":", "/")

    def layer(self, name: str) -> Path:
        """The folder of an unpacked layer."""
        return self.root / "l" / name

    def load(self) -> None:
        """Read what is there and drop what a crash left half done."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        for name in ("images", "blobs/sha256", "l", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.root / "images").glob("*.json"):
            image = Image(**json.loads(path.read_bytes()))
            if all(self.layer(name).is_dir() for name in image.layers):
                self._images[image.id] = image
            else:
                path.unlink()
        self.collect()

    def all(self) -> list[Image]:
        """All images."""
        return list(self._images.values())

    def find(self, name: str) -> Image | None:
        """The image with this id, tag or digest.

        Raises: InvalidArgument if it is no image name at all.
        """
        match = _ID.fullmatch(name)
        if match:
            return self._images.get(f"sha256:{match[1]}")
        wanted = reference.parse(name)
        if wanted.digest:
            digest = f"{wanted.repository}@{wanted.digest}"
            return next((image for image in self.all() if digest in image.digests), None)
        return next((image for image in self.all() if str(wanted) in image.tags), None)

    def find_short(self, name: str) -> Image | None:
        """The image with this id (or its first four digits or more), tag or digest.

        Raises: InvalidArgument if it is no image name at all.
        """
        if re.fullmatch(r"(?:sha256:)?[0-9a-f]{4,63}", name):
            prefix = f"sha256:{name.removeprefix('sha256:')}"
            found = [image for image in self.all() if image.id.startswith(prefix)]
            if len(found) == 1:
                return found[0]
        return self.find(name)

    def untag(self, image: Image, name: str, *, force: bool) -> dict[str, list[str]]:
        """Take a name from an image, and the image away with its last; an id takes all names, if there is but one.

        Returns: the names taken ("untagged") and the image's id if it went ("deleted").
        Raises: RuntimeFailure if an id is given that has several names, without `force`.
        """
        by_id = image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
        if by_id and len(image.tags) > 1 and not force:
            raise RuntimeFailure(
                f"unable to delete {name} (must be forced) - image is referenced in multiple repositories"
            )
        taken = list(image.tags) if by_id else [tag for tag in image.tags if tag == str(reference.parse(name))]
        image.tags = [tag for tag in image.tags if tag not in taken]
        if image.tags:
            self._save(image)
            return {"untagged": taken, "deleted": []}
        self.remove(image.id)
        return {"untagged": taken, "deleted": [image.id]}

    def get(self, name: str) -> Image:
        """The image with this id, tag or digest.

        Raises: NotFound, InvalidArgument.
        """
        image = self.find(name)
        if image is None:
            raise NotFound(f'image "{name}": not found')
        return image

    def _save(self, image: Image) -> None:
        path = self.root / "images" / f"{image.id.removeprefix('sha256:')}.json"
        write_atomically(path, json.dumps(asdict(image)).encode())
        self._images[image.id] = image

    @contextlib.contextmanager
    def installing(self) -> Iterator[Path]:
        """Yield a scratch folder; meanwhile nothing is collected, for blobs come before the image that names them."""
        scratch = self.root / "tmp" / uuid.uuid4().hex[:8]
        scratch.mkdir(mode=0o700)
        self._installing += 1
        try:
            yield scratch
        finally:
            self._installing -= 1
            shutil.rmtree(scratch, ignore_errors=True)

    async def install(self, manifest_digest: str, ref: reference.Reference, *, source_digest: str = "") -> Image:
        """Make an image of blobs that are all in the store: unpack its layers and give it its name.

        Args:
            manifest_digest: the manifest, which names the other blobs.
            ref: the name it was pulled by; its tag moves here from the image that had it.
            source_digest: digest under which the registry has it, if other than the manifest's (an index).

        Raises: RuntimeFailure if a layer can't be unpacked.
        """
        with self.installing() as scratch:
            manifest = json.loads(self.blob(manifest_digest).read_bytes())
            config = json.loads(self.blob(manifest["config"]["digest"]).read_bytes())
            chain = chain_ids(config["rootfs"]["diff_ids"])
            await self._unpack_missing(scratch, manifest["layers"], config["rootfs"]["diff_ids"], chain)
            image = Image(
                id=manifest["config"]["digest"],
                config=config.get("config") or {},
                layers=[layer_name(chain_id) for chain_id in chain],
                size=sum(part["size"] for part in (manifest["config"], *manifest["layers"])),
                blobs=[manifest_digest, manifest["config"]["digest"], *(part["digest"] for part in manifest["layers"])],
            )
            known = self._images.get(image.id)
            if known:
                image.tags, image.digests = known.tags, known.digests
            return self.name(image, ref, source_digest or manifest_digest)

    def name(self, image: Image, ref: reference.Reference, digest: str) -> Image:
        """Give an image a tag (taking it from the one that had it) and a digest, and remember it."""
        if ref.tag and not ref.digest:
            tag = str(ref)
            for other in self.all():
                if other.id != image.id and tag in other.tags:
                    other.tags.remove(tag)
                    self._save(other)
            if tag not in image.tags:
                image.tags.append(tag)
        full_digest = f"{ref.repository}@{digest}"
        if full_digest not in image.digests:
            image.digests.append(full_digest)
        self._save(image)
        return image

    async def _unpack_missing(
        self, scratch: Path, parts: list[dict[str, Any]], diff_ids: list[str], chain: list[str]
    ) -> None:
        async with self._unpack_lock:  # two images may share a layer
            work = []
            for index, (part, diff_id) in enumerate(zip(parts, diff_ids, strict=True)):
                place = self.layer(layer_name(chain[index]))
                if place.is_dir():
                    continue
                target = scratch / f"layer{index}"
                target.mkdir()
                lower = [str(self.layer(layer_name(below))) for below in reversed(chain[:index])]
                work.append(
                    {
                        "blob": str(self.blob(part["digest"])),
                        "diff_id": diff_id,
                        "target": str(target),
                        "lower": lower,
                        "place": str(place),
                    }
                )
            if work:
                await _run_unpack(work)

    def remove(self, name: str) -> None:
        """Forget an image under all its names; layers that containers stand on stay until these are gone."""
        image = self.find(name)
        if image is not None:
            (self.root / "images" / f"{image.id.removeprefix('sha256:')}.json").unlink(missing_ok=True)
            del self._images[image.id]

    async def collect_in_thread(self) -> None:
        """As `collect`; one at a time, for two would rename the same folders."""
        async with self._collect_lock:
            await asyncio.to_thread(self.collect)

    def collect(self) -> None:
        """Delete blobs and layers that nothing refers to; does nothing while images are being installed."""
        if self._installing:
            return
        layers = {name for image in self.all() for name in image.layers} | set(self._layers_in_use())
        blobs = {digest.partition(":")[2] for image in self.all() for digest in image.blobs}
        for folder, keep in ((self.root / "l", layers), (self.blobs / "sha256", blobs)):
            for path in folder.iterdir():
                if path.name not in keep:
                    # Renamed first: a folder half deleted must not be taken for a layer after a crash.
                    doomed = self.root / "tmp" / f"{path.name}.{uuid.uuid4().hex[:8]}"
                    path.rename(doomed)
                    if doomed.is_dir():
                        shutil.rmtree(doomed, ignore_errors=True)
                    else:
                        doomed.unlink()


async def _run_unpack(work: list[dict[str, Any]]) -> None:
    environment = dict(os.environ, PYTHONPATH=_PYTHON_PATH)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.runtime.images.unpack"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        _, complaint = await process.communicate(json.dumps(work).encode())
    finally:
        if process.returncode is None:  # nobody waits for the image any more
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeFailure(f"failed to extract layer: {complaint.decode(errors='replace').strip()}")
