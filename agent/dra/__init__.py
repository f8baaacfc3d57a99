"""Devices by ResourceClaims (DRA): drivers of this node prepare them for pods."""
