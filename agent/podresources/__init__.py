"""The PodResources API: who monitors a node asks which devices and CPUs its containers have."""
