"""One scheduling rule a file; plugins are pure and do not know each other."""
