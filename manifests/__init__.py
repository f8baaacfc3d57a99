"""YAML that the cluster applies to itself, and examples for its users."""
