"""The client side of CRI v1, and the generated stubs. Start in agent/cri/client.py."""
