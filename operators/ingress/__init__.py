"""Ingress: hosts, paths and TLS of Ingress objects, served by the distribution's HAProxy.

An add-on: nothing else knows of it, and any other ingress controller can take its place. It is no kopf operator, since
one configuration is made of all objects together; it shows how such a controller is written with the client kit.
Start in model.py (what Ingresses ask, pure) and gateway.py (what the Gateway API's basics ask, pure), then haproxy.py
(how HAProxy is told, pure), then app.py.
"""
