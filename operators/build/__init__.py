"""Build: images made in the cluster by a small kopf operator, from git or a ConfigMap.

Start in pods.py (the pod that a run is, pure), then reconcile.py (one step), then app.py (kopf's part).
"""
