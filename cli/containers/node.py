"""The images of this node, by the runtime's own service on its socket."""

import json
import os
from pathlib import Path
from typing import Any

from cli.containers.naming import DockerError

SERVICE = "/wherry.node.v1.Images/"
_MESSAGE_BYTES = 64 << 20
_DEFAULT = Path("/var/lib/wherry/run/runtime.sock")


def socket_path() -> Path:
    """Return the runtime's socket: $WHERRY_RUNTIME_SOCKET, else beside the kubeconfig, else the system's."""
    if given := os.environ.get("WHERRY_RUNTIME_SOCKET"):
        return Path(given)
    for entry in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        beside = Path(entry).parent / "run" / "runtime.sock"
        if entry and beside.exists():
            return beside
    return _DEFAULT


class Images:
    """Calls the runtime; a context manager that holds one connection."""

    def __init__(self) -> None:
        path = socket_path()
        if not path.exists():
            raise DockerError(
                f"no runtime answers at {path}: images are the node's, run this on one (as root); `wherry up` starts one"
            )
        import grpc

        self._grpc = grpc
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
        self._channel = grpc.insecure_channel(f"unix:{path}", options=options)

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, **request: Any) -> Any:
        """Ask for one thing. Raises: DockerError."""
        call = self._channel.unary_unary(
            SERVICE + method, request_serializer=_encoded, response_deserializer=json.loads
        )
        try:
            return call(request)
        except self._grpc.RpcError as error:
            raise DockerError(error.details()) from error

    def pull(self, name: str) -> str:
        """Have the runtime fetch an image; returns its id. Raises: DockerError.

        PullImage of CRI: field 1 of the request is the image, whose field 1 is its name; field 1 of the answer its id.
        """
        spec = _field(1, name.encode())
        call = self._channel.unary_unary("/runtime.v1.ImageService/PullImage")
        try:
            answer: bytes = call(_field(1, spec))
        except self._grpc.RpcError as error:
            raise DockerError(error.details()) from error
        return answer[2:].decode()


def _encoded(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field of a protobuf message."""
    length, head = len(data), bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head) + bytes([length]) + data
