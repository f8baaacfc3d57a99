"""DNS messages as bytes: what a query asks, and answers made ready to be sent many times.

Reading a question is done by hand, being on the way of each query; answers are packed by dnslib.
Format: RFC 1035, RFC 6891 (EDNS)
"""

import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dnslib import AAAA, CNAME, EDNS0, NS, PTR, QTYPE, RR, SOA, SRV, TXT, A, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from clusterdns import zone
from clusterdns.zone import Found, Record

TTL_SECONDS = 5  # CoreDNS' default for the cluster's names
FORMERR, NOTIMP, REFUSED = 1, 4, 5
PLAIN_UDP_BYTES, MAX_UDP_BYTES = 512, 1232
_HEADER = struct.Struct(">HHHHHH")
_OPT = 41
_QR, _TRUNCATED, _RECURSION_DESIRED = 0x8000, 0x0200, 0x0100
_MAX_ROTATIONS = 8


@dataclass(frozen=True, slots=True)
class Query:
    """A question.

    Attributes:
        labels: the name in lower case; `spelled` as it was sent.
        udp_bytes: how long an answer over UDP may be.
        edns: whether the client speaks EDNS; `has_options` whether with more than a size, such as a cookie.
        end: where the question ends.
    """

    id: int
    labels: list[str]
    spelled: tuple[bytes, ...]
    type: int
    recursion: bool
    udp_bytes: int
    edns: bool
    end: int
    has_options: bool = False


class BadQuery(ValueError):
    """A message that is no query we can answer; `code` is the response code to send, None to send nothing."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


def parse(data: bytes) -> Query:
    """Read a query. Raises: BadQuery."""
    if len(data) < _HEADER.size:
        raise BadQuery(None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        raise BadQuery(None)
    if flags & 0x7800:
        raise BadQuery(NOTIMP)
    if questions != 1 or answers or authorities:
        raise BadQuery(FORMERR)
    try:
        spelled, at = _name(data, _HEADER.size)
        kind, class_ = struct.unpack_from(">HH", data, at)
        size, options = _edns(data, at + 4) if additional else (None, False)
    except (IndexError, struct.error) as error:
        raise BadQuery(FORMERR) from error
    if class_ not in (1, 255):
        raise BadQuery(REFUSED)
    labels = [label.decode("latin-1").lower() for label in spelled]
    limit = PLAIN_UDP_BYTES if size is None else min(max(size, PLAIN_UDP_BYTES), MAX_UDP_BYTES)
    recursion = bool(flags & _RECURSION_DESIRED)
    return Query(number, labels, tuple(spelled), kind, recursion, limit, size is not None, at + 4, options)


def _name(data: bytes, at: int) -> tuple[list[bytes], int]:
    labels, total = [], 0
    while length := data[at]:
        if length > 63:
            raise IndexError("a pointer, or no length")
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
        total += 1 + length
        if total > 255 or at >= len(data):
            raise IndexError("too long a name")
    return labels, at + 1


def _edns(data: bytes, at: int) -> tuple[int | None, bool]:
    """Return the size of answers a client takes over UDP, None if it says none, and whether it gives options."""
    if data[at] == 0:
        kind, size, _, length = struct.unpack_from(">HHIH", data, at + 1)
        if kind == _OPT:
            return size, length > 0
    return None, False


def refusal(data: bytes, code: int) -> bytes:
    """Return an answer that has only a response code."""
    number, flags = struct.unpack_from(">HH", data)
    return _HEADER.pack(number, _QR | (flags & 0x7900) | code, 0, 0, 0, 0)


def answers(query: Query, found: Found, domain: Sequence[str], *, limit: int) -> list[bytes]:
    """Return the answer, in several orders of its records when there are several addresses: clients take the first.

    Args:
        query: what was asked.
        found: what it stands for.
        domain: the zone's name.
        limit: the answer's length at most, in bytes; a longer one is cut and says so.
    """
    records = list(found.records)
    if len(records) < 2 or records[0].type == zone.CNAME:
        return [_pack(query, found, records, domain, limit)]
    step = max(len(records) // _MAX_ROTATIONS, 1)
    starts = range(0, len(records), step)[:_MAX_ROTATIONS]
    return [_pack(query, found, records[at:] + records[:at], domain, limit) for at in starts]


def _pack(query: Query, found: Found, records: Sequence[Record], domain: Sequence[str], limit: int) -> bytes:
    extra = list(found.additional)
    packed = _message(query, found.code, records, extra, domain).pack()
    if len(packed) > limit and extra:
        packed = _message(query, found.code, records, [], domain).pack()
    kept = list(records)
    while len(packed) > limit and kept:
        kept = kept[: min(len(kept) - 1, max(len(kept) * limit // len(packed), 0))]
        packed = _message(query, found.code, kept, [], domain, truncated=True).pack()
    return bytes(packed)


def _message(
    query: Query, code: int, records: Sequence[Record], extra: Sequence[Record], domain: Sequence[str], *,
    truncated: bool = False,
) -> DNSRecord:  # fmt: skip
    header = DNSHeader(id=query.id, qr=1, aa=1, rd=int(query.recursion), ra=1, tc=int(truncated), rcode=code)
    asked = DNSLabel(list(query.spelled))
    message = DNSRecord(header, q=DNSQuestion(asked, query.type, 1))
    for record in records:
        message.add_answer(_rr(record, asked))
    if not records and not truncated:
        message.add_auth(_start_of_authority(domain))
    for record in extra:
        message.add_ar(_rr(record, asked))
    if query.edns:
        message.add_ar(EDNS0(udp_len=MAX_UDP_BYTES))
    return message


_DATA = {zone.A: A, zone.AAAA: AAAA, zone.CNAME: CNAME, zone.PTR: PTR, zone.NS: NS, zone.TXT: TXT}


def _rr(record: Record, asked: DNSLabel) -> RR:
    if isinstance(record.data, tuple):
        port, target = record.data
        data = SRV(0, 100, port, DNSLabel(target))
    else:
        data = _DATA[record.type](record.data)
    return RR(record.name or asked, record.type, rdata=data, ttl=TTL_SECONDS)


def _start_of_authority(domain: Sequence[str]) -> RR:
    name = ".".join(domain) + "."
    times = (int(time.time()), 7200, 1800, 86400, TTL_SECONDS)
    return RR(name, QTYPE.SOA, rdata=SOA(f"ns.dns.{name}", f"hostmaster.{name}", times), ttl=TTL_SECONDS)


def times_to_live(message: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each record's time to live stands in a message, and its seconds. Raises: IndexError, struct.error."""
    _, _, questions, *counts = _HEADER.unpack_from(message)
    at = _HEADER.size
    for _ in range(questions):
        at = _skip_name(message, at) + 4
    for _ in range(sum(counts)):
        at = _skip_name(message, at)
        kind, _, seconds, length = struct.unpack_from(">HHIH", message, at)
        if kind != _OPT:
            yield at + 4, seconds
        at += 10 + length


def _skip_name(message: bytes, at: int) -> int:
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


def truncated(message: bytes, limit: int) -> bytes:
    """Return a message that fits: itself, or one without records that says it is cut."""
    if len(message) <= limit:
        return message
    number, flags, questions, *_ = _HEADER.unpack_from(message)
    end = _skip_name(message, _HEADER.size) + 4
    return _HEADER.pack(number, flags | _TRUNCATED, questions, 0, 0, 0) + message[_HEADER.size : end]


def is_truncated(message: bytes) -> bool:
    """Whether a message says that it is cut."""
    return bool(message[2] & (_TRUNCATED >> 8))
