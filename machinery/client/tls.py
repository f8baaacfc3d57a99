"""The TLS context a ClientConfig asks for; apart from rest.py because the command line needs it without aiohttp."""

import ssl
import tempfile

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
    """Give the context our certificate; OpenSSL reads only files, so inline data passes through private ones."""
    with tempfile.NamedTemporaryFile() as cert, tempfile.NamedTemporaryFile() as key:
        for file, data in ((cert, config.cert_data), (key, config.key_data)):
            file.write(data)
            file.flush()
        context.load_cert_chain(
            cert.name if config.cert_data else config.cert_file,
            key.name if config.key_data else config.key_file or None,
        )
