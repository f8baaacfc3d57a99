"""Cluster DNS: an add-on that answers names of Services and pods, and forwards all others.

A process of its own that watches the API and may be replaced by any other server, such as CoreDNS. It imports machinery
only, and is not called `dns` because that is dnspython's import name.
Start in server.py (a query's way), then zone.py (what a name stands for).
"""
