"""HTTP/2 as far as a gRPC client needs it: one connection, many streams, flow control both ways.

Apart from the store because it knows nothing of etcd, and written here because the general library costs more than the
rest of a write together (docs/adr/0004). Header blocks are made once a method and read once a form: our settings switch
the table off that would tie them to their connection, so that equal bytes mean equal headers.
Sources: https://www.rfc-editor.org/rfc/rfc9113, https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_DEFAULT_WINDOW = 65_535
_WINDOW = (1 << 31) - 1
_MAX_FRAME = (1 << 24) - 1
_CANCEL = 8
_LAST_STREAM = (1 << 31) - 3
_KNOWN_BLOCKS = 64
_HEAD = struct.Struct(">HBBBI")  # length (upper 16, lower 8), type, flags, stream


class ConnectionLost(Exception):
    """The connection ended; `never_sent` says that the other side has surely not seen the request."""

    def __init__(self, why: str, *, never_sent: bool = False) -> None:
        super().__init__(why)
        self.never_sent = never_sent


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def header_block(pairs: Mapping[str, str]) -> bytes:
    """Return a header block that refers to no table of the connection's."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(name, value) for name, value in pairs.items()])


class Stream:
    """One request and what comes back; `on_data`, `on_end` and `on_lost` are called as it comes, never after an end."""

    __slots__ = ("id", "on_data", "on_end", "on_lost", "read", "unsent", "window")

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_end: Callable[[Mapping[str, str]], None],
        on_lost: Callable[[ConnectionLost], None],
    ) -> None:
        self.id = 0
        self.window = 0
        self.read = 0  # bytes taken since its window was last widened
        self.unsent: deque[tuple[bytes, bool]] = deque()  # waits for the other side's window
        self.on_data = on_data
        self.on_end = on_end
        self.on_lost = on_lost


class Connection(asyncio.Protocol):
    """One HTTP/2 connection; all of its methods are called from its loop."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.is_open = False  # takes new streams
        self.heard_at = 0.0  # the loop's time when something last came
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._in = bytearray()
        self._out: list[bytes] = []
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._max_frame = 16_384
        self._read = 0  # bytes of data taken since we last widened the connection's window
        self._block = b""
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._blocks: dict[bytes, Mapping[str, str]] = {}

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Introduce ourselves."""
        self._transport = transport
        self.is_open = True
        ours = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: _WINDOW, _MAX_FRAME_SIZE: _MAX_FRAME}
        settings = b"".join(struct.pack(">HI", name, value) for name, value in ours.items())
        self._send(_PREFACE + frame(SETTINGS, 0, 0, settings))
        self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _DEFAULT_WINDOW)))

    def data_received(self, data: bytes) -> None:
        """Take bytes apart into frames."""
        self.heard_at = self._loop.time()
        pending = self._in
        pending += data
        at, end = 0, len(pending)
        try:
            while end - at >= 9:
                upper, lower, kind, flags, stream = _HEAD.unpack_from(pending, at)
                after = at + 9 + (upper << 8 | lower)
                if after > end:
                    break
                self._take(kind, flags, stream & 0x7FFFFFFF, bytes(pending[at + 9 : after]))
                at = after
        except (ValueError, struct.error, hpack.HPACKError) as error:
            self.abort(f"the other side speaks no HTTP/2: {error!r}")
            return
        del pending[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all streams."""
        self._end(ConnectionLost(f"the connection ended: {exc}" if exc else "the other side closed the connection"))

    def abort(self, why: str) -> None:
        """End the connection now."""
        self._end(ConnectionLost(why))
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection once what was written is sent."""
        self._flush()
        self._end(ConnectionLost("closed"))
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: ConnectionLost) -> None:
        self.is_open = False
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_lost(error)

    # ---- what streams ask for

    def open(self, block: bytes, stream: Stream) -> None:
        """Begin a request with a header block of `header_block`."""
        stream.id = self._next_id
        self._next_id += 2
        if self._next_id > _LAST_STREAM:
            self.is_open = False  # numbers are used up; streams that are open go on
        stream.window = self._stream_window
        self.streams[stream.id] = stream
        self._send(frame(HEADERS, END_HEADERS, stream.id, block))

    def write(self, stream: Stream, data: bytes, *, ends: bool) -> None:
        """Send data, now or when the other side has room for it."""
        size = len(data)
        if not stream.unsent and size <= self._max_frame and size <= self._window and size <= stream.window:
            self._window -= size
            stream.window -= size
            self._send(frame(DATA, END_STREAM if ends else 0, stream.id, data))
            return
        stream.unsent.append((data, ends))
        self._pump(stream)

    def cancel(self, stream: Stream) -> None:
        """Give a stream up."""
        if self.streams.pop(stream.id, None) is not None and self._transport is not None:
            self._send(frame(RST_STREAM, 0, stream.id, struct.pack(">I", _CANCEL)))

    def _pump(self, stream: Stream) -> None:
        while stream.unsent:
            data, ends = stream.unsent[0]
            size = min(len(data), self._max_frame, self._window, stream.window)
            if data and size <= 0:
                return
            self._window -= size
            stream.window -= size
            rest = data[size:]
            if rest:
                stream.unsent[0] = (rest, ends)
            else:
                stream.unsent.popleft()
            self._send(frame(DATA, END_STREAM if ends and not rest else 0, stream.id, data[:size]))

    def _send(self, data: bytes) -> None:
        """Write with all else that this turn of the loop sends."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    # ---- what comes

    def _take(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == DATA:
            self._take_data(flags, number, body)
        elif kind == HEADERS:
            self._block = _unpadded(flags, body)
            self._block = self._block[5:] if flags & PRIORITY else self._block
            self._take_block(flags, number)
        elif kind == CONTINUATION:
            self._block += body
            self._take_block(flags, number)
        elif kind == WINDOW_UPDATE:
            self._widen(number, int.from_bytes(body, "big") & 0x7FFFFFFF)
        elif kind == SETTINGS and not flags & ACK:
            self._settle(body)
        elif kind == PING and not flags & ACK:
            self._send(frame(PING, ACK, 0, body))
        elif kind == RST_STREAM:
            if (stream := self.streams.pop(number, None)) is not None:
                code = int.from_bytes(body, "big")
                stream.on_lost(ConnectionLost(f"the other side broke the stream off, code {code}"))
        elif kind == GOAWAY:
            self._part(*struct.unpack_from(">II", body))

    def _take_data(self, flags: int, number: int, body: bytes) -> None:
        self._read += len(body)
        if self._read > _WINDOW >> 1:
            self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._read)))
            self._read = 0
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.read += len(body)
        if stream.read > _WINDOW >> 1:
            self._send(frame(WINDOW_UPDATE, 0, number, struct.pack(">I", stream.read)))
            stream.read = 0
        stream.on_data(_unpadded(flags, body))
        if flags & END_STREAM:
            self.streams.pop(number, None)
            stream.on_end({})

    def _take_block(self, flags: int, number: int) -> None:
        # The flag of a stream's end comes with the first frame, that of the block's end with the last.
        if not flags & END_HEADERS:
            return
        block = self._block
        headers = self._blocks.get(block)
        if headers is None:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if len(self._blocks) < _KNOWN_BLOCKS:
                self._blocks[block] = headers
        if "grpc-status" in headers and (stream := self.streams.pop(number, None)) is not None:
            stream.on_end(headers)
        elif headers.get(":status", "200") != "200" and (stream := self.streams.pop(number, None)) is not None:
            stream.on_end({"grpc-status": "14", "grpc-message": f"HTTP status {headers[':status']}"})

    def _widen(self, number: int, by: int) -> None:
        if number == 0:
            self._window += by
            for stream in list(self.streams.values()):
                if stream.unsent:
                    self._pump(stream)
        elif (found := self.streams.get(number)) is not None:
            found.window += by
            self._pump(found)

    def _settle(self, body: bytes) -> None:
        for at in range(0, len(body), 6):
            name, value = struct.unpack_from(">HI", body, at)
            if name == _INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == _MAX_FRAME_SIZE:
                self._max_frame = value
        self._send(frame(SETTINGS, ACK, 0))
        for stream in list(self.streams.values()):
            self._pump(stream)

    def _part(self, last: int, code: int) -> None:
        """The other side takes no more streams; those it has not looked at may be sent elsewhere."""
        self.is_open = False
        for number in [number for number in self.streams if number > (last & 0x7FFFFFFF)]:
            self.streams.pop(number).on_lost(ConnectionLost(f"the other side is going, code {code}", never_sent=True))


def _unpadded(flags: int, body: bytes) -> bytes:
    if not flags & PADDED:
        return body
    return body[1 : len(body) - body[0]]
