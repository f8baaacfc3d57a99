"""SPDY frames: what a client sends is read whatever the pieces it comes in, and nonsense is refused."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinery.spdy import DICTIONARY, FIN, PING, SYN_STREAM, BadFrame, Framer


def new_stream(compressor: "zlib._Compress", number: int, headers: dict[str, str]) -> bytes:
    plain = struct.pack(">I", len(headers))
    for text in (text for pair in headers.items() for text in pair):
        plain += struct.pack(">I", len(text)) + text.encode()
    block = compressor.compress(plain) + compressor.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack(">IIH", number, 0, 0) + block
    return struct.pack(">HHI", 0x8003, SYN_STREAM, len(body)) + body


def test_the_dictionary_is_the_one_all_compressors_begin_with() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_frames_are_read_in_whatever_pieces(sizes: list[int]) -> None:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    sent = new_stream(compressor, 1, {"streamtype": "error", "port": "80"})
    sent += new_stream(compressor, 3, {"streamtype": "data", "port": "80"}) + Framer.data(3, b"hello", ends=True)
    framer, frames, at, turn = Framer(), [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        frames += list(framer.feed(sent[at : at + size]))
        at, turn = at + size, turn + 1
    assert [(one.kind, one.stream, one.flags) for one in frames] == [
        (SYN_STREAM, 1, 0),
        (SYN_STREAM, 3, 0),
        (0, 3, FIN),
    ]
    assert frames[1].headers == {"streamtype": "data", "port": "80"}
    assert frames[2].data == b"hello"


def test_an_answer_can_be_read_by_the_other_side() -> None:
    ours, theirs = Framer(), Framer()
    for stream in (1, 3):
        [reply] = theirs.feed(ours.reply(stream))
        assert (reply.kind, reply.stream, dict(reply.headers)) == (2, stream, {})
    [ping] = theirs.feed(struct.pack(">HHII", 0x8003, PING, 4, 7))
    assert Framer.pong(ping) == struct.pack(">HHII", 0x8003, PING, 4, 7)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">HHI", 0x8002, SYN_STREAM, 0),
        struct.pack(">HHI", 0x8003, SYN_STREAM, 4) + b"\0\0\0\1",
        struct.pack(">HHI", 0x8003, SYN_STREAM, 14) + bytes(10) + b"junk",
        struct.pack(">II", 1, 0xFFFFFF),
    ],
    ids=["version", "short", "headers", "huge"],
)
def test_nonsense_is_refused(sent: bytes) -> None:
    with pytest.raises(BadFrame):
        list(Framer().feed(sent))
