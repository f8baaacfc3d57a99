"""The numbered channels on which commands in containers are joined, and the names SPDY streams have instead.

Sources: https://kubernetes.io/docs/reference/using-api/ (channels), KEP 4006 (closing), k8s.io/kubelet remotecommand
"""

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
STREAM_TYPES = {"error": ERROR, "stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "resize": RESIZE}
"""By the header `streamtype`."""
