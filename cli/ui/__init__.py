"""The terminal interface: browse kinds, watch them live, and act on objects by single keys, after k9s.

feed.py follows a kind as the server's tables, model.py keeps its rows (pure), grid.py draws those that are visible,
app.py puts it together. textual is loaded by this package alone; what changes the cluster is done by the other verbs.
"""
