"""Images: names (reference.py), fetching (pull.py), unpacking (unpack.py) and what is here (store.py)."""
