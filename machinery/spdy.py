"""SPDY/3.1 frames: as much as exec, attach and port forwarding need.

Source: https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_WORDS = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
]
_MORE_WORDS = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
# What both sides' compressors begin with; section 2.6.10.1.
DICTIONARY = b"".join(struct.pack(">I", len(one)) + one.encode() for one in (*_WORDS, *_MORE_WORDS)) + _TAIL.encode()

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 0x01
PROTOCOL_ERROR, REFUSED_STREAM = 1, 3
MAX_FRAME_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 * 1024
_CONTROL = 0x8000
_VERSION = 3


class BadFrame(ValueError):
    """What came is no SPDY; the connection can't go on."""


@dataclass(slots=True)
class Frame:
    """One frame; `kind` is 0 for data, `headers` is there for new streams."""

    kind: int
    stream: int
    flags: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ends(self) -> bool:
        """Whether it is the stream's last in its direction."""
        return bool(self.flags & FIN)


class Framer:
    """Takes bytes apart into frames and puts frames together; one for each connection."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now. Raises: BadFrame."""
        self._pending += data
        while len(self._pending) >= 8:
            head, rest = struct.unpack_from(">II", self._pending)
            length = rest & 0xFFFFFF
            if length > MAX_FRAME_BYTES:
                raise BadFrame(f"a frame of {length} bytes")
            if len(self._pending) < 8 + length:
                return
            body = bytes(self._pending[8 : 8 + length])
            del self._pending[: 8 + length]
            yield self._frame(head, rest >> 24, body)

    def _frame(self, head: int, flags: int, body: bytes) -> Frame:
        if not head >> 31:
            return Frame(0, head, flags, body)
        version, kind = head >> 16 & 0x7FFF, head & 0xFFFF
        if version != _VERSION:
            raise BadFrame(f"version {version} of SPDY")
        if kind == SYN_STREAM:
            if len(body) < 10:
                raise BadFrame("a new stream without its numbers")
            return Frame(kind, _number(body), flags, b"", self._headers(body[10:]))
        if kind in (SYN_REPLY, HEADERS):
            return Frame(kind, _number(body), flags, b"", self._headers(body[4:]))
        return Frame(kind, _number(body) if len(body) >= 4 else 0, flags, body)

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADER_BYTES)
            (count,) = struct.unpack_from(">I", plain)
            found, at = {}, 4
            for _ in range(count):
                name, at = _text(plain, at)
                value, at = _text(plain, at)
                found[name.lower()] = value
        except (zlib.error, struct.error) as error:
            raise BadFrame(f"headers that can't be read: {error}") from error
        return found

    def open(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Return the frame that begins a stream; a client's have odd numbers."""
        parts = [part.encode() for pair in headers.items() for part in pair]
        items = b"".join(struct.pack(">I", len(part)) + part for part in parts)
        plain = struct.pack(">I", len(headers)) + items
        block = self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(SYN_STREAM, struct.pack(">IIBB", stream, 0, 0, 0) + block)

    def reply(self, stream: int) -> bytes:
        """Return the frame that takes a new stream."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(SYN_REPLY, struct.pack(">I", stream) + block)

    @staticmethod
    def data(stream: int, content: bytes, *, ends: bool = False) -> bytes:
        """Return a frame of data."""
        return struct.pack(">II", stream, (FIN if ends else 0) << 24 | len(content)) + content

    @staticmethod
    def reset(stream: int, status: int) -> bytes:
        """Return the frame that breaks a stream off."""
        return _control(RST_STREAM, struct.pack(">II", stream, status))

    @staticmethod
    def pong(frame: Frame) -> bytes:
        """Return the answer to a ping."""
        return _control(PING, frame.data)


def _number(body: bytes) -> int:
    return int.from_bytes(body[:4], "big") & 0x7FFFFFFF


def _text(plain: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", plain, at)
    end = at + 4 + length
    if end > len(plain):
        raise struct.error("a header longer than its block")
    return plain[at + 4 : end].decode(errors="replace"), end


def _control(kind: int, body: bytes) -> bytes:
    return struct.pack(">HHI", _CONTROL | _VERSION, kind, len(body)) + body
