"""Generated from proto/etcd by scripts/generate-protos; never edited."""
