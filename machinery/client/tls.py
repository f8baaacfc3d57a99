"""The TLS context a ClientConfig asks for; apart from rest.py because the command line needs it without aiohttp."""

import contextlib
import os
import ssl

from machinery.client.kubeconfig import ClientConfig


def ssl_context(config: ClientConfig) -> ssl.SSLContext:
    """Return a context that trusts the cluster's CA and shows the client certificate, where there are any.

    Raises: OSError (ssl.SSLError is one) when a certificate or key can't be read.
    """
    context = ssl.create_default_context(
        cafile=config.ca_file if config.ca_file and not config.ca_data else None,
        cadata=config.ca_data.decode() if config.ca_data else None,
    )
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.cert_data or config.cert_file:
        _load_client_certificate(context, config)
    return context


def _load_client_certificate(context: ssl.SSLContext, config: ClientConfig) -> None:
    """Give the context our certificate; OpenSSL reads only files, so inline data passes through ones in memory."""
    with contextlib.ExitStack() as files:

        def path(data: bytes, file: str) -> str:
            if not data:
                return file
            inline = files.enter_context(open(os.memfd_create("client-certificate"), "wb"))
            inline.write(data)
            inline.flush()
            return f"/proc/self/fd/{inline.fileno()}"

        context.load_cert_chain(
            path(config.cert_data, config.cert_file), path(config.key_data, config.key_file) or None
        )
