"""Plugins of the node that are found by their sockets in a folder: watcher.py."""
