"""Compose files: read and checked (project.py), turned into manifests (manifests.py)."""
