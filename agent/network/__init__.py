"""The node's part in the cluster network: Services, policies, the links between nodes.

Start in routes.py (what Services ask), table.py (the rules for it) and proxy.py (keeps the kernel in step).
"""
