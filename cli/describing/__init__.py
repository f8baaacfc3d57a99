"""Objects told at length, in kubectl's layout: one module a family of kinds. Start reading in writer.py."""
