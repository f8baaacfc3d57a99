"""The node agent: makes this machine's pods what the API server says they are.

It may import machinery only. Start reading in agent/app.py.
"""
