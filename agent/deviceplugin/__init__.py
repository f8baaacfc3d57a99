"""The device plugin API: plugins register here and are asked for devices. Start reading in manager.py."""
