"""The node's nftables table of services: its rules, and the elements of its maps and sets; pure.

A service is not a chain but elements of maps, so thousands of them cost one look-up and load in a fraction of a second.
A frontend's element names the chain for its number of endpoints N; that chain draws a number below N, and a second map
tells the endpoint of that number. What changes is given to the kernel as the elements that came and went.

Two bits of the connection mark carry what the rules after address translation need to know of the time before it; the
mark is cleared before the first packet leaves.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.network.routes import Affinity, Backend, Frontend, Route

Elements = dict[tuple[str, str], str]  # (map or set, key) -> value; "" in a set

MASQUERADE = 0x40000000
ID_MASK = 0x0FFFFFFF
_PROTOCOLS = "meta l4proto { tcp, udp, sctp }"
_MAX_CLIENTS = 262144  # clients remembered for session affinity
_PORT = "meta l4proto . th dport"


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between the IP versions."""

    version: int
    name: str  # nftables' word
    address_type: str
    loopback: str
    # Whether one map remembers the clients of all services, with address and port of their endpoints. nft up to 1.0.6
    # dies of such a rule for IPv6, so there each service's port has a map of its own, and endpoints have numbers.
    one_memory: bool = True


IPV4 = Family(4, "ip", "ipv4_addr", "127.0.0.0/8")
IPV6 = Family(6, "ip6", "ipv6_addr", "::1", one_memory=False)


@dataclass(frozen=True, slots=True)
class Site:
    """The ranges and links that rules are about.

    Attributes:
        pods: the cluster's pod addresses; what comes from elsewhere is outside.
        local_pods: this node's.
        services: service addresses.
        bridge: the link of this node's pods, and the table's name: several clusters may share a machine.
    """

    family: Family
    pods: str
    local_pods: str
    services: str
    bridge: str

    @property
    def table(self) -> str:
        """The table's name, with its family."""
        return f"{self.family.name} {self.bridge}"


@dataclass(frozen=True, slots=True)
class Client:
    """A client that a table remembers.

    Attributes:
        container: the map it stands in.
        key: its key there.
        number: of the service's port.
        target: its endpoint as the map has it: "address . port", or a number.
        seconds: for how long still.
    """

    container: str
    key: str
    number: int
    target: str
    seconds: int


@dataclass(frozen=True, slots=True)
class _Flavour:
    """A map of frontends, how packets are looked up in it, and the names of what goes with it."""

    name: str
    is_node_port: bool
    is_outside: bool

    def key(self, family: Family) -> str:
        return _PORT if self.is_node_port else f"{family.name} daddr . {_PORT}"

    def type(self, family: Family) -> str:
        port = "inet_proto . inet_service"
        return port if self.is_node_port else f"{family.address_type} . {port}"


_FLAVOURS = {
    (False, False): _Flavour("services", False, False), (True, False): _Flavour("nodeports", True, False),
    (False, True): _Flavour("services-outside", False, True), (True, True): _Flavour("nodeports-outside", True, True),
}  # fmt: skip


def _element_key(frontend: Frontend) -> str:
    port = f"{frontend.protocol} . {frontend.port}"
    return f"{frontend.address} . {port}" if frontend.address else port


@dataclass
class Table:
    """What the kernel should hold for one IP version, and the way there from what it was given last.

    Frontends belong to the first who asks; who asks later gets them when the first lets go.
    """

    site: Site
    _wanted: dict[str, tuple[Route, ...]] = field(default_factory=dict)
    _holders: dict[Frontend, str] = field(default_factory=dict)
    _waiting: dict[Frontend, set[str]] = field(default_factory=lambda: defaultdict(set))
    _held: dict[str, tuple[Route, ...]] = field(default_factory=dict)
    _hairpin: Counter[str] = field(default_factory=Counter)
    _ids: dict[str, int] = field(default_factory=dict)
    _sizes: set[tuple[str, int]] = field(default_factory=set)  # chains that are there
    _removed: dict[tuple[str, str], None] = field(default_factory=dict)
    _added: Elements = field(default_factory=dict)

    # ---- changes

    def change(self, owner: str, routes: Sequence[Route]) -> None:
        """Take the routes of a Service or pod; none when it is gone."""
        if routes:
            self._wanted[owner] = tuple(routes)
        else:
            self._wanted.pop(owner, None)
        self._settle(owner)

    def _settle(self, owner: str) -> None:
        before, asked = self._held.get(owner, ()), self._wanted.get(owner, ())
        held = tuple(route for route in asked if self._claim(route.frontend, owner))
        released = {route.frontend for route in before} - {route.frontend for route in held}
        self._differ(before, held)
        if held:
            self._held[owner] = held
        else:
            self._held.pop(owner, None)
        for frontend in released:
            self._release(frontend, owner)

    def _claim(self, frontend: Frontend, owner: str) -> bool:
        holder = self._holders.setdefault(frontend, owner)
        if holder != owner:
            self._waiting[frontend].add(owner)
        return holder == owner

    def _release(self, frontend: Frontend, owner: str) -> None:
        if self._holders.get(frontend) != owner:
            return
        del self._holders[frontend]
        for waiting in sorted(self._waiting.pop(frontend, ())):
            self._settle(waiting)

    def _differ(self, before: Sequence[Route], after: Sequence[Route]) -> None:
        old, new = self._elements(before), self._elements(after)
        for element, value in old.items():
            if new.get(element) != value:
                self._remove(element)
        for element, value in new.items():
            if old.get(element) != value:
                self._added[element] = value
        self._count_hairpins(before, -1)
        self._count_hairpins(after, +1)

    def _remove(self, element: tuple[str, str]) -> None:
        if element in self._added:
            del self._added[element]  # the kernel has not heard of it, or has its former value on the list to go
        else:
            self._removed[element] = None

    def _count_hairpins(self, routes: Iterable[Route], step: int) -> None:
        for ip in {backend.ip for route in routes for backend in (*route.backends, *(route.outside or ()))}:
            before = self._hairpin[ip]
            self._hairpin[ip] = before + step
            element = ("hairpin", f"{ip} . {ip}")
            if before == 0:
                self._added[element] = ""
            elif before + step == 0:
                del self._hairpin[ip]
                self._remove(element)

    # ---- elements

    def _elements(self, routes: Iterable[Route]) -> Elements:
        found: Elements = {}
        for route in routes:
            self._route_elements(route, found)
        return found

    def _route_elements(self, route: Route, found: Elements) -> None:
        node_port, key = not route.frontend.address, _element_key(route.frontend)
        inside = _FLAVOURS[node_port, False]
        if route.backends:
            self._to_backends(inside, key, route.backends, route.affinity, found)
        elif route.has_any:
            found[inside.name, key] = "drop"
        else:
            found[f"refused-{inside.name}", key] = ""
        if route.outside is not None and route.has_any:
            outside = _FLAVOURS[node_port, True]
            if route.outside:
                self._to_backends(outside, key, route.outside, route.affinity, found)
            else:
                found[outside.name, key] = "drop"
        if route.sources and not node_port:
            found["restricted", key] = ""
            found.update({("allowed", f"{key} . {source}"): "" for source in route.sources})

    def _to_backends(
        self, flavour: _Flavour, key: str, backends: Sequence[Backend], affinity: Affinity | None, found: Elements
    ) -> None:
        size = len(backends)
        chain = f"{flavour.name}-{size}"
        if affinity and not self.site.family.one_memory:
            self._to_numbered(flavour, key, backends, affinity, found)
            return
        found[flavour.name, key] = f"goto affine-{chain}" if affinity else f"goto {chain}"
        for number, backend in enumerate(backends):
            found[f"{chain}-endpoints", f"{number} . {key}"] = f"{backend.ip} . {backend.port}"
        if affinity:
            identity = self._identity(affinity.name)
            found[f"affine-{'nodeports' if flavour.is_node_port else 'services'}", key] = f"0x{identity:08x}"
            found["affinity-seconds", f"0x{identity:08x}"] = f"goto remember-{affinity.seconds}"

    def _to_numbered(
        self, flavour: _Flavour, key: str, backends: Sequence[Backend], affinity: Affinity, found: Elements
    ) -> None:
        """As `_to_backends`, where a number stands for an endpoint of a service's port."""
        memory, chain = f"{self._identity(affinity.name):08x}", f"{flavour.name}-{len(backends)}"
        found[flavour.name, key] = f"goto affine-{memory}-{chain}"
        for at, backend in enumerate(backends):
            number = self._endpoint_number(affinity.name, backend)
            found[f"{chain}-numbers", f"{at} . {key}"] = f"0x{number:08x}"
            for mark in (number, number | MASQUERADE):
                found["targets", f"0x{mark:08x}"] = f"{backend.ip} . {backend.port}"
            found["affinity-seconds", f"0x{number:08x}"] = f"goto remember-{memory}-{affinity.seconds}"

    def _endpoint_number(self, name: str, backend: Backend) -> int:
        return self._identity(f"{name} {backend.ip} {backend.port}")

    def _identity(self, name: str) -> int:
        """A number for a service's port, or its endpoint, the same after a restart: clients are remembered by it."""
        if name not in self._ids:
            number, taken = zlib.crc32(name.encode()) & ID_MASK or 1, set(self._ids.values())
            while number in taken:
                number = (number + 1) & ID_MASK or 1
            self._ids[name] = number
        return self._ids[name]

    def memory(self, name: str, backends: Iterable[Backend]) -> tuple[int, set[str]]:
        """Return the number of a service's port's clients, and how endpoints are written down with them."""
        if self.site.family.one_memory:
            return self._identity(name), {f"{one.ip} . {one.port}" for one in backends}
        return self._identity(name), {f"0x{self._endpoint_number(name, one):08x}" for one in backends}

    def routes(self, owner: str) -> tuple[Route, ...]:
        """Return the routes an owner has."""
        return self._held.get(owner, ())

    # ---- text for nft

    def take_changes(self) -> str:
        """Return a transaction of what changed since it was last asked for; "" for nothing."""
        lines = list(self._new_chains(self._added))
        lines += _commands("delete", self.site.table, dict.fromkeys(self._removed, ""))
        lines += _commands("add", self.site.table, self._added)
        self._removed, self._added = {}, {}
        return "\n".join(lines) + "\n" if lines else ""

    def _new_chains(self, elements: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Declare the maps and chains that elements need and that are not there yet."""
        for name in dict.fromkeys(container for container, _ in elements):
            body = list(self._declare(name))
            if body:
                yield f"table {self.site.table} {{"
                yield from body
                yield "}"
        values = (self._added[element] for element in elements)
        for value in dict.fromkeys(value for value in values if value.startswith(("goto remember-", "goto affine-"))):
            body = list(self._declare_affine(value.removeprefix("goto ")))
            if body:
                yield f"table {self.site.table} {{"
                yield from body
                yield "}"

    def _declare(self, container: str) -> Iterator[str]:
        prefix, _, kind = container.rpartition("-")
        name, _, size = prefix.rpartition("-")
        if kind not in ("endpoints", "numbers") or not size.isdigit() or (f"{name}-{kind}", int(size)) in self._sizes:
            return
        self._sizes.add((f"{name}-{kind}", int(size)))
        flavour = next(one for one in _FLAVOURS.values() if one.name == name)
        if kind == "numbers":
            yield f"  map {container} {{ typeof {_pick(flavour, int(size), self.site.family)} : ct mark; }}"
        else:
            yield from _size_chains(flavour, int(size), self.site)

    def _declare_affine(self, chain: str) -> Iterator[str]:
        """Declare what an element of a service with affinity names, where it is not there yet."""
        if chain.startswith("affine-") and self.site.family.one_memory:
            return  # comes with its size
        kind, _, rest = chain.partition("-")
        if self.site.family.one_memory:
            yield from self._remember(chain)
            return
        memory, _, rest = rest.partition("-")
        if (f"affinity-{memory}", 0) not in self._sizes:
            self._sizes.add((f"affinity-{memory}", 0))
            kind_of = f"type {self.site.family.address_type} : mark; flags dynamic,timeout; size {_MAX_CLIENTS};"
            yield f"  map affinity-{memory} {{ {kind_of} }}"
        if (chain, 0) not in self._sizes:
            self._sizes.add((chain, 0))
            yield from (
                _affine_chain(chain, memory, rest, self.site)
                if kind == "affine"
                else _remember_numbered(chain, memory, int(rest), self.site.family)
            )

    def _remember(self, chain: str) -> Iterator[str]:
        seconds = int(chain.rpartition("-")[2])
        if ("remember", seconds) in self._sizes:
            return
        self._sizes.add(("remember", seconds))
        address = self.site.family.name
        yield f"  chain {chain} {{"
        yield (
            f"    update @affinity {{ ct original {address} saddr . ct mark timeout {seconds}s : "
            f"{address} daddr . th dport }}"
        )
        yield "    ct mark set 0"
        yield "  }"

    def whole(self, remembered: Sequence[Client] = ()) -> str:
        """Return a transaction that puts all of it in the place of whatever is there.

        Args: `remembered` is what read_affinity() found: the clients of the table that is replaced.
        """
        self._removed, self._sizes = {}, set()
        self._added = {}
        for routes in self._held.values():
            self._added.update(self._elements(routes))
        self._added.update({("hairpin", f"{ip} . {ip}"): "" for ip in self._hairpin})
        lines = [f"add table {self.site.table}", f"delete table {self.site.table}", f"table {self.site.table} {{"]
        lines += [*_containers(self.site), "}"]
        lines += self._new_chains(list(self._added))
        lines += [f"table {self.site.table} {{", *_rules(self.site), "}"]
        lines += _commands("add", self.site.table, self._added)
        known = {int(element[1], 16) for element in self._added if element[0] == "affinity-seconds"}
        for one in remembered:
            if (one.number if self.site.family.one_memory else int(one.target, 16)) in known:
                element = f"{one.key} timeout {one.seconds}s : {one.target}"
                lines.append(f"add element {self.site.table} {one.container} {{ {element} }}")
        self._added = {}
        return "\n".join(lines) + "\n"


def _commands(verb: str, table: str, elements: Mapping[tuple[str, str], str]) -> Iterator[str]:
    by_container: dict[str, list[str]] = defaultdict(list)
    for (container, key), value in elements.items():
        by_container[container].append(f"{key} : {value}" if value else key)
    # Frontends name chains and are found before their endpoints: they come last and go first.
    frontends = {one.name for one in _FLAVOURS.values()}
    for container in sorted(by_container, key=lambda name: name in frontends, reverse=verb == "delete"):
        yield f"{verb} element {table} {container} {{ {', '.join(by_container[container])} }}"


def _containers(site: Site) -> Iterator[str]:
    family = site.family
    for flavour in _FLAVOURS.values():
        yield f"  map {flavour.name} {{ type {flavour.type(family)} : verdict; }}"
        if not flavour.is_outside:
            yield f"  set refused-{flavour.name} {{ type {flavour.type(family)}; }}"
            yield f"  map affine-{flavour.name} {{ type {flavour.type(family)} : mark; }}"
    yield f"  set hairpin {{ type {family.address_type} . {family.address_type}; }}"
    kind = _FLAVOURS[False, False].type(family)
    yield f"  set restricted {{ type {kind}; }}"
    yield f"  set allowed {{ type {kind} . {family.address_type}; flags interval; }}"
    yield "  map affinity-seconds { type mark : verdict; }"
    if family.one_memory:
        yield "  map affinity {"
        yield f"    type {family.address_type} . mark : {family.address_type} . inet_service"
        yield "    flags dynamic,timeout"
        yield f"    size {_MAX_CLIENTS}"
        yield "  }"
        return
    yield f"  map targets {{ typeof ct mark : {family.name} daddr . th dport; }}"
    for flavour in _FLAVOURS.values():
        yield from _chain(f"affine-to-{flavour.name}", [
            *_masquerade_mark(flavour, site), f"    {_PROTOCOLS} dnat to ct mark map @targets",
        ])  # fmt: skip


def _size_chains(flavour: _Flavour, size: int, site: Site) -> Iterator[str]:
    """The chains for frontends of `size` endpoints, and the map of these endpoints."""
    family, chain = site.family, f"{flavour.name}-{size}"
    pick, mark = _pick(flavour, size, family), _masquerade_mark(flavour, site)
    ids = "affine-nodeports" if flavour.is_node_port else "affine-services"
    yield f"  map {chain}-endpoints {{"
    yield f"    typeof {pick} : {family.name} daddr . th dport"
    yield "  }"
    yield f"  chain {chain} {{"
    yield from mark
    yield f"    {_PROTOCOLS} dnat to {pick} map @{chain}-endpoints"
    yield "  }"
    if family.one_memory:
        yield f"  chain affine-{chain} {{"
        yield f"    ct mark set {flavour.key(family)} map @{ids}"
        yield from mark
        yield f"    {_PROTOCOLS} dnat to {family.name} saddr . ct mark map @affinity"
        yield f"    goto {chain}"
        yield "  }"


def _pick(flavour: _Flavour, size: int, family: Family) -> str:
    return f"numgen random mod {size} . {flavour.key(family)}"


def _masquerade_mark(flavour: _Flavour, site: Site) -> list[str]:
    """Clients outside the pods' network are answered through this node, unless they keep their address."""
    if flavour.is_outside:
        return []
    return [f"    {site.family.name} saddr != {site.pods} ct mark set ct mark or 0x{MASQUERADE:08x}"]


def _affine_chain(chain: str, memory: str, drawn_from: str, site: Site) -> list[str]:
    """The chain of a service's port with affinity, where endpoints have numbers: remembered, or drawn."""
    name, _, size = drawn_from.rpartition("-")
    flavour = next(one for one in _FLAVOURS.values() if one.name == name)
    pick = _pick(flavour, int(size), site.family)
    return _chain(chain, [
        f"    ct mark set {site.family.name} saddr map @affinity-{memory} goto affine-to-{name}",
        f"    ct mark set {pick} map @{drawn_from}-numbers goto affine-to-{name}",
    ])  # fmt: skip


def _remember_numbered(chain: str, memory: str, seconds: int, family: Family) -> list[str]:
    client = f"ct original {family.name} saddr"
    return _chain(chain, [
        f"    ct mark set ct mark and 0x{ID_MASK:08x}",
        f"    update @affinity-{memory} {{ {client} timeout {seconds}s : ct mark }}", "    ct mark set 0",
    ])  # fmt: skip


def _rules(site: Site) -> Iterator[str]:
    family, address = site.family, site.family.name
    node_port = f"fib daddr type local {_PORT}"
    service = f"{address} daddr . {_PORT}"
    yield from _chain("outside", [f"    {service} vmap @services-outside", f"    {node_port} vmap @nodeports-outside"])
    yield from _chain("restrict", [f"    {service} . {address} saddr != @allowed drop"])
    yield from _chain("inside", [
        f"    {service} @restricted jump restrict", f"    {service} vmap @services", f"    {node_port} vmap @nodeports",
    ])  # fmt: skip
    yield from _chain("prerouting", [
        "    type nat hook prerouting priority dstnat; policy accept;",
        f"    {service} @restricted jump restrict",
        f"    {address} saddr != {site.pods} fib saddr type != local jump outside", "    goto inside",
    ])  # fmt: skip
    yield from _chain("output", ["    type nat hook output priority -100; policy accept;", "    goto inside"])
    yield from _chain("postrouting", [
        "    type nat hook postrouting priority srcnat; policy accept;",
        f"    ct mark and 0x{MASQUERADE:08x} != 0 ct status dnat masquerade",
        f"    {address} saddr . {address} daddr @hairpin masquerade",  # a pod that reaches itself through a service
        f'    {address} saddr {site.local_pods} {address} daddr != {site.pods} oifname != "{site.bridge}" masquerade',
    ])  # fmt: skip
    for hook, priority in (("postrouting", "srcnat + 5"), ("input", "filter + 5")):
        yield from _chain(f"remember-{hook}", [
            f"    type filter hook {hook} priority {priority}; policy accept;",
            f"    ct state new ct status dnat ct mark and 0x{MASQUERADE | ID_MASK:08x} != 0 jump remember",
        ])  # fmt: skip
    yield from _chain("remember", [
        f"    ct mark and 0x{ID_MASK:08x} vmap @affinity-seconds",
        f"    ct mark and 0x{MASQUERADE:08x} != 0 ct mark set 0",
    ])  # fmt: skip
    yield from _filters(site)
    if family.version == 4:
        # Loopback addresses are routed so that node ports answer there; nobody else's packets may come that way.
        yield from _chain("loopback", [
            "    type filter hook prerouting priority raw; policy accept;",
            f'    iifname != "lo" ip daddr {family.loopback} drop',
        ])  # fmt: skip


def _filters(site: Site) -> Iterator[str]:
    """Refuse what is still on its way to a service: nobody is behind it.

    Left alone it would be lost without a word, and its connection remembered without a translation.
    """
    address = site.family.name
    refuse = [
        f"    ct state new {address} daddr . {_PORT} @refused-services jump refuse",
        f"    ct state new fib daddr type local {_PORT} @refused-nodeports jump refuse",
        f"    {address} daddr {site.services} jump refuse",
    ]
    yield from _chain("refuse", ["    meta l4proto tcp reject with tcp reset", "    reject"])
    # Before routing: it knows no way to a service address that is not translated.
    for hook, priority in (("prerouting", "dstnat + 10"), ("output", "filter")):
        yield from _chain(
            f"refuse-{hook}", [f"    type filter hook {hook} priority {priority}; policy accept;", *refuse]
        )


def _chain(name: str, body: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", *body, "  }"]
