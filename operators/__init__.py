"""Add-ons written with kopf, one folder each."""
