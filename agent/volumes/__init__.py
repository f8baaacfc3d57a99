"""What a pod can mount: one kind of volume a file."""
