"""Runs benchmarks by name and prints one JSON object: {name: figures}."""

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Run what the command line names; all of them when it names none."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    known.remove("clusters")
    names = sys.argv[1:] or known
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}")
    results = {}
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        results[name] = importlib.import_module(f"bench.{name}").main()
    print(json.dumps(results, indent=2))


main()
