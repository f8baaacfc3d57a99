"""Sets of indexes as Jobs write them: "0,2-5,9". Pure."""

from collections.abc import Iterable


def parse_indexes(text: str | None, limit: int | None = None) -> set[int]:
    """Return the indexes a text names; those from `limit` on are dropped. What is no number is passed over."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            continue
        end = int(last) if dash else int(first)
        if limit is not None:
            end = min(end, limit - 1)
        found.update(range(int(first), end + 1))
    return found


def format_indexes(indexes: Iterable[int]) -> str:
    """Return the shortest text for a set of indexes; two in a row are written with a comma, three with a dash."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(set(indexes)), -1]:
        if run and index == run[-1] + 1:
            run.append(index)
            continue
        if run:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}{',' if len(run) == 2 else '-'}{run[-1]}")
        run = [index]
    return ",".join(parts)
