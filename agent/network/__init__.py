"""Services on this node: nftables rules computed from Services and EndpointSlices.

Start in agent/network/rules.py.
"""
