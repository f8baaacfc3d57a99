"""Add-ons, one folder each, written as examples for people who write operators: with kopf, or with the client kit."""
