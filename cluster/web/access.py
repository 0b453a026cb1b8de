"""Who may see the pages: this machine, or whoever has the token; and no stranger's page through somebody's browser."""

import hmac
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit


class Access:
    """Decides by a request's address and headers.

    Args:
        host: that is listened on.
        with_token: whether it takes one; always, where ``host`` is not this machine alone.
    """

    def __init__(self, host: str, with_token: bool = False) -> None:
        self.local = is_loopback(host)
        self.token = secrets.token_urlsafe(32) if with_token or not self.local else None
        self._names = {"localhost", host.lower()}
        if not self.local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def knows_host(self, header: str | None) -> bool:
        """Whether a ``Host`` header names this machine.

        A stranger's name that points here (DNS rebinding) would make a browser take our pages for the stranger's. No
        address in numbers can be rebound; a tunnel's other port is as good as ours.
        """
        try:
            name = urlsplit(f"//{header or ''}").hostname
        except ValueError:
            return False
        if not name:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self._names
        return address.is_loopback or not self.local

    def admits(self, cookies: str | None, authorization: str | None, cookie_name: str) -> bool:
        """Whether a request without the token in its address may pass: by its cookie, or ``Authorization: Bearer``."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        # By hand: SimpleCookie stops at the first cookie that is not to its taste, and another program on this machine,
        # whose cookies a browser sends here as well, may have written that one.
        pairs = (cookie.partition("=") for cookie in (cookies or "").split(";"))
        return any(self.is_token(value.strip()) for name, _, value in pairs if name.strip() == cookie_name)

    def is_token(self, given: str) -> bool:
        """Whether it is the token, in a time that tells nothing of it."""
        own = (self.token or "").encode()
        return self.token is not None and hmac.compare_digest(own, given.encode(errors="surrogatepass"))


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach what listens on ``host``.

    Raises:
        OSError: no such host.
    """
    found = {str(known[4][0]) for known in socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)}
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
