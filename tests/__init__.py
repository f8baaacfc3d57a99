"""Tests: unit (pure), integration (a real API server), e2e (real processes, root)."""
