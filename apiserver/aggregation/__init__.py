"""Extension API servers: groups that other servers answer for. Start in apiserver/aggregation/aggregator.py."""
