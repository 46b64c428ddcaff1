"""A real SMTP server for tests: keeps each mail as a file in a folder, and refuses certain recipients.

Usage: smtp.py PORT MAILDIR [CERTIFICATE KEY]

A mail is acknowledged only once its file is on disk under its final name, so a test that sees the client's success
finds the file. The file is the mail as it came, with the envelope before it: `X-Envelope-From`, `X-Envelope-To`.

Recipients:  refuse@…  gets 550, for good;  later@…  gets 451, to be tried again;  all others are taken.
Login:       not asked for; when offered, only user `tidemill` with password `tidemill-test` is let in.
STARTTLS:    offered when a certificate and its key are given; not demanded.
"""

import asyncio
import itertools
import os
import signal
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

USER = b"tidemill"
PASSWORD = b"tidemill-test"
MAIL_LIMIT_BYTES = 32 * 1024 * 1024

numbers = itertools.count()


def store(folder: str, envelope) -> str:
    """Write one mail so that it survives a power cut: file, fsync, rename, fsync of the folder."""
    name = f"{time.time_ns()}-{os.getpid()}-{next(numbers)}.eml"
    part = os.path.join(folder, f".{name}.part")
    head = [f"X-Envelope-From: {envelope.mail_from}"]
    head += [f"X-Envelope-To: {recipient}" for recipient in envelope.rcpt_tos]
    with open(part, "wb") as file:
        file.write("\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n")
        file.write(envelope.original_content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, os.path.join(folder, name))
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return name


class Handler:
    """What aiosmtpd asks: may this recipient be written to, and where does this mail go."""

    def __init__(self, folder: str):
        self.folder = folder

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refuse@"):
            return "550 5.1.1 no such mailbox"
        if address.startswith("later@"):
            return "451 4.3.0 mailbox is busy, try again later"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        name = store(self.folder, envelope)
        print(f"stored {name} for {', '.join(envelope.rcpt_tos)}", file=sys.stderr, flush=True)
        return f"250 OK stored as {name}"


def login(server, session, envelope, mechanism, data):
    """Let in the one user there is."""
    good = isinstance(data, LoginPassword) and data.login == USER and data.password == PASSWORD
    return AuthResult(success=good, handled=good)


async def serve(port: int, folder: str, certificate: list[str]) -> None:
    """Answer on 127.0.0.1 until SIGTERM."""
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate)

    def session():
        return SMTP(
            Handler(folder),
            hostname="localhost",
            data_size_limit=MAIL_LIMIT_BYTES,
            tls_context=tls,
            authenticator=login,
            auth_require_tls=False,
        )

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(session, "127.0.0.1", port)
    await stop.wait()
    server.close()


def main() -> int:
    if len(sys.argv) not in (3, 5):
        print(__doc__, file=sys.stderr)
        return 2
    port, folder = int(sys.argv[1]), sys.argv[2]
    os.makedirs(folder, exist_ok=True)
    asyncio.run(serve(port, folder, sys.argv[3:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
