"""Volumes by drivers of the Container Storage Interface (v1): who the drivers are, staging, publishing: volumes.py."""
