"""What a plugin sees: NodeInfo, CycleState, Status."""
