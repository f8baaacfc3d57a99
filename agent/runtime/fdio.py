"""Reads and writes pipes, terminals and the like without blocking the loop and without a transport for each."""

import asyncio
import errno
import os

_BLOCK = 65536


class Descriptor:
    """A file descriptor that may be closed more than once."""

    def __init__(self, fd: int) -> None:
        """Take it over; from now on it doesn't block."""
        os.set_blocking(fd, False)
        self.fd = fd

    def close(self) -> None:
        """Close it unless it is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


async def _ready(fd: int, *, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    if to_write:
        loop.add_writer(fd, ready.set)
    else:
        loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        if to_write:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)


async def read(fd: int) -> bytes:
    """Read what there is, waiting for some; b"" at the end. The descriptor must not block."""
    while True:
        try:
            return os.read(fd, _BLOCK)
        except BlockingIOError:
            await _ready(fd, to_write=False)
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that no process has open any more
                return b""
            raise


async def write(fd: int, data: bytes) -> None:
    """Write all of `data`. The descriptor must not block.

    Raises: BrokenPipeError if nobody reads.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, to_write=True)
        except OSError as error:
            if error.errno == errno.EIO:
                raise BrokenPipeError from error
            raise
