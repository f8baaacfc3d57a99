"""What is known about each kind, one module an API group. Routes, discovery and columns are derived from it."""
