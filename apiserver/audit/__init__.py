"""The audit log: who asked what of the server, and what came of it. Start in apiserver/audit/auditor.py."""
