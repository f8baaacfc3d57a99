"""Custom resources: kinds that users define by CustomResourceDefinitions.

Start at follower.py, which keeps the catalog in step with the definitions in the store; kinds.py makes the `Kind`s;
structural.py and validation.py hold their schemas; controller.py writes the definitions' conditions.
Imports the registry and the storage, and nothing of the endpoints.
"""
