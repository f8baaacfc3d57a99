"""Benchmarks, one file each, printing JSON: python -m bench NAME…."""
