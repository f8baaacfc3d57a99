"""Request bodies: read within limits, decoded from JSON or YAML into a dict."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from aiohttp import web

from apiserver.request import AUDIT
from machinery import errors

MAX_BODY_BYTES = 3 * 1024 * 1024
# A client that sends its body more slowly than this is let go.
BODY_SECONDS = 60.0
PROTOBUF = "application/vnd.kubernetes.protobuf"
# A YAML document may say much with few bytes by aliases; it may not become larger than this many values.
MAX_YAML_VALUES = 1_000_000


# What has come of a body before its request's turn.
_BEGUN: web.RequestKey[bytearray] = web.RequestKey("body", bytearray)
MAX_EARLY_BYTES = 64 * 1024 * 1024


class EarlyBodies:
    """Lets bodies come before their requests take a seat: who sends slowly keeps nobody from being served.

    All that wait so hold `MAX_EARLY_BYTES` at most; beyond that the rest is read by whose turn it is.
    """

    def __init__(self) -> None:
        self._bytes = 0

    async def arrive(self, request: web.BaseRequest) -> None:
        """Wait until the body of a request is here. Raises: Timeout when it takes too long."""
        if request.content.is_eof() or (request.content_length or 0) > MAX_BODY_BYTES:
            return
        begun = request[_BEGUN] = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while self._bytes < MAX_EARLY_BYTES and len(begun) <= MAX_BODY_BYTES:
                    piece = await request.content.readany()
                    if not piece:
                        return
                    begun += piece
                    self._bytes += len(piece)
        except TimeoutError as error:
            raise _too_slow() from error
        finally:
            self._bytes -= len(begun)  # from here on it is the request's


async def read(request: web.Request) -> bytes:
    """Return the body. Raises: RequestEntityTooLarge above 3 MiB."""
    body = await _read(request)
    if AUDIT in request and request[AUDIT].wants_body:
        request[AUDIT].body = body
    return body


async def _read(request: web.Request) -> bytes:
    length = request.content_length
    if length is not None and length > MAX_BODY_BYTES:
        raise _too_large()
    if request.content.is_eof():  # it is here already: most are
        return await _whole(request, length)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _whole(request, length)
    except TimeoutError as error:
        raise _too_slow() from error


def _too_slow() -> errors.Timeout:
    return errors.Timeout("Timeout: request did not complete within the allotted timeout")


async def _whole(request: web.Request, length: int | None) -> bytes:
    begun = bytes(request.get(_BEGUN, b""))
    if length is not None:
        try:
            return begun + await request.content.readexactly(length - len(begun)) if length > len(begun) else begun
        except asyncio.IncompleteReadError as error:
            raise errors.BadRequest("unexpected EOF") from error
    body = begun + await request.content.read(MAX_BODY_BYTES + 1)
    while not request.content.at_eof() and len(body) <= MAX_BODY_BYTES:
        body += await request.content.read(MAX_BODY_BYTES + 1 - len(body))
    if len(body) > MAX_BODY_BYTES:
        raise _too_large()
    return body


def _too_large() -> errors.RequestEntityTooLarge:
    return errors.RequestEntityTooLarge(f"Request entity too large: limit is {MAX_BODY_BYTES}")


def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type header without its parameters; JSON when there is none."""
    return content_type.partition(";")[0].strip().lower() or "application/json"


def decode(body: bytes, content_type: str, *, duplicates: list[str] | None = None) -> Any:
    """Return what a body says; of a key that is there twice, the last value.

    Args: `duplicates` is given what to tell of keys that are there twice.
    Raises: BadRequest when it is malformed; UnsupportedMediaType.
    """
    media = media_type(content_type)
    if media in ("application/yaml", "application/apply-patch+yaml", "application/x-yaml"):
        return _decode_yaml(body, duplicates)
    if media == PROTOBUF:
        return _decode_protobuf(body)
    if media.endswith("json") or media in ("text/plain", "application/octet-stream"):
        return _decode_json(body, duplicates)
    raise errors.UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: application/json, "
        f"application/yaml, {PROTOBUF}, got {media}"
    )


def _decode_json(body: bytes, duplicates: list[str] | None) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.BadRequest(f"couldn't get version/kind; json parse error: {error}") from error
    if duplicates is not None and not _has_each_key_once(body, value):
        duplicates += [f'duplicate field "{path}"' for path in _duplicates(body)]
    return value


_BLANK_BEFORE_COLON = re.compile(rb'"\s+:')


def _has_each_key_once(body: bytes, value: Any) -> bool:
    """Whether it is certain at little cost that no key is there twice: what was read has as many as the body has.

    A colon after a quote ends a key, or stands in a string behind an escaped quote, and so in both; but for blanks
    before colons and for quotes written as code points, of which nothing is certain.
    """
    if body.count(b'":') != orjson.dumps(value).count(b'":'):
        return False
    return b"\\u" not in body and not _BLANK_BEFORE_COLON.search(body)


class _Read(dict[str, Any]):
    """An object as it was read, with the keys that were there twice."""

    twice: Sequence[str] = ()


def _duplicates(body: bytes) -> Iterator[str]:
    """Yield the paths of keys that are there twice."""

    def pairs(items: list[tuple[str, Any]]) -> _Read:
        result = _Read(items)
        if len(result) != len(items):
            names = [name for name, _ in items]
            result.twice = [name for at, name in enumerate(names) if name in names[:at]]
        return result

    try:
        yield from _twice(json.loads(body, object_pairs_hook=pairs), "")
    except RecursionError as error:
        raise errors.BadRequest("json: exceeded max depth") from error


def _twice(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Read):
        for name in value.twice:
            yield f"{path}.{name}" if path else name
        for name, item in value.items():
            yield from _twice(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _twice(item, f"{path}[{index}]")


def _decode_protobuf(body: bytes) -> Any:
    from machinery.api import protobuf  # what most clients never send

    try:
        return protobuf.decode(body)
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"unable to decode protobuf: {error}") from error


def _decode_yaml(body: bytes, duplicates: list[str] | None) -> Any:
    import yaml

    from machinery.api.yamlload import load

    twice: list[str] = []
    try:
        value = load(body, twice)
        if twice and duplicates is not None:
            duplicates.append("yaml: unmarshal errors:\n  " + "\n  ".join(twice))
        _check_size(value)
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str))
    except (yaml.YAMLError, RecursionError, orjson.JSONEncodeError) as error:
        raise errors.BadRequest(f"error converting YAML to JSON: {error}") from error


def _check_size(value: Any) -> None:
    """Count values with aliases followed, each alias's size counted once and multiplied by its uses."""
    sizes: dict[int, int] = {}

    def size(one: Any) -> int:
        if not isinstance(one, dict | list):
            return 1
        known = sizes.get(id(one))
        if known is None:
            sizes[id(one)] = MAX_YAML_VALUES  # a document that holds itself is too large
            known = sizes[id(one)] = 1 + sum(size(item) for item in (one.values() if isinstance(one, dict) else one))
        return known

    if size(value) > MAX_YAML_VALUES:
        raise errors.BadRequest("error converting YAML to JSON: yaml: document contains excessive aliasing")
