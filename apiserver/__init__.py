"""The API server: one path for every request, from TLS to the store.

It may import machinery only. Start reading in apiserver/app.py.
"""
