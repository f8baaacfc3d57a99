"""Docker's verbs: containers are ordinary pods with a label, images are the node's. Start reading in naming.py."""
