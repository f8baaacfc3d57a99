"""The dashboard: a web page about the cluster, for a browser, with the rights of whoever logs in and no others.

app.py is the server, top to bottom: its routes, and who may ask (security.py, sessions.py). live.py follows kinds for a
page; pages/ is what the browser gets, plain HTML, CSS and JavaScript. It imports machinery alone.
"""
