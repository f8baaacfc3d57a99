"""The controllers: each takes one kind of object a step from what is to what is asked.

They may import machinery only, and never each other. Start reading in controllers/manager.py.
"""
