"""Benchmarks, one file each, printing JSON: python -m bench NAME….

Each module has `main() -> dict`, which starts what it measures (as processes of its own) and ends it again.
"""
