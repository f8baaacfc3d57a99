"""The command line: kubectl's verbs and the cluster's own commands. Start reading in cli/main.py."""
