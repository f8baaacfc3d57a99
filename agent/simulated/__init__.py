"""Nodes without containers: the agent's own code over a CRI that is kept in memory, many nodes in one process.

For trying out schedulers, controllers and operators at scale. Start reading in nodes.py; runtime.py is the CRI.
"""
