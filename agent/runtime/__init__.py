"""The namespace runtime: serves CRI v1 on a Unix socket, on runc, overlayfs, cgroups and CNI.

A process of its own that knows nothing of the API server. Start reading in agent/runtime/server.py.
"""
