"""NodePool: so many simulated nodes, with labels, taints and sizes, by a small kopf operator.

The operator writes Node objects; a process of simulated nodes follows those that carry the label and is them. Start in
plan.py (what should be, pure), then reconcile.py (one step), then app.py (kopf's part).
"""
