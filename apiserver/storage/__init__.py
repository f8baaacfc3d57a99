"""Keys, bytes and revisions; knows no objects. Start in apiserver/storage/interface.py."""
