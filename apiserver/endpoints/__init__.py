"""HTTP handlers: resources, discovery, health, log and exec streams. Start in apiserver/endpoints/resources.py."""
