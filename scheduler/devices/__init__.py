"""Devices that drivers publish, and giving them to claims: structured parameters.

`pools.py` makes pools of slices, `places.py` says from where they are seen, `allocator.py` searches devices for claims,
`capacity.py` says what a share of a device takes of it, `results.py` writes down what was chosen, `extended.py` makes
claims of extended resources. Only `binding.py` writes anything: claims, before their pod is bound.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""
