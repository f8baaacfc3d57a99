"""The composition root: puts the components together into a cluster on this machine.

The only package that may import all of them. Start reading in cluster/up.py.
"""
