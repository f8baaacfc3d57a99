"""Programs that use the client libraries people use; test_clients.py runs each against a server."""
