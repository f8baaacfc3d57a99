"""Compose: projects kept in the cluster as objects of their own, run and repaired by a small kopf operator.

Start in project.py (what a project comes to, pure), then reconcile.py (one step towards it), then app.py (kopf's part).
"""
