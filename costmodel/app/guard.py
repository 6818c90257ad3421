"""Who may ask: this machine's own pages, or whoever has the token. Sizes are bounded before anything is read.

A page of another site must neither read nor write here. Its requests name its own origin, and one that has its name
resolve to this machine (DNS rebinding) sends that name as `Host`.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Iterable
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from costmodel.units import whole

LONGEST_QUERY, LARGEST_BODY = 16 * 2**10, 256 * 2**10  # bytes
COOKIE, TOKEN = "costmodel", "token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
}  # fmt: skip


class Refused(Exception):
    """Why a request is not answered. status: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Checks each request before the page sees it. token: what others need, null on loopback; names: of this host."""

    def __init__(self, page: ASGIApp, *, token: str | None, names: Iterable[str]) -> None:
        self.page, self.token = page, token
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.page(scope, receive, send)
            return
        try:
            location = self._check(scope, Headers(scope=scope))
        except Refused as refused:
            await _reply(send, refused.status, {"error": str(refused)})
            return
        if location is not None:
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            await _reply(send, 303, {}, {"location": location, "set-cookie": cookie})
            return
        await self.page(scope, _bounded(receive), _with_headers(send))

    def _check(self, scope: Scope, headers: Headers) -> str | None:
        """Return where a browser goes on that has just shown the token, null for all others. Raises Refused."""
        host = headers.get("host", "")
        if not _is_address(_name_of(host)) and _name_of(host) not in self.names:
            raise Refused(421, f"this is not {_name_of(host) or 'named'}; start it with --name to serve that name")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Refused(403, "asked by a page of another site")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
            if not is_link:
                raise Refused(403, "asked by a page of another site")
        if len(scope["query_string"]) > LONGEST_QUERY:
            raise Refused(414, f"asks for more than {LONGEST_QUERY} bytes")
        length = whole(headers.get("content-length", "0"))
        if length is None or length > LARGEST_BODY:
            raise Refused(413, f"sends more than {LARGEST_BODY // 2**10} KiB")
        return None if self.token is None else self._admit(scope, headers, self.token)

    @staticmethod
    def _admit(scope: Scope, headers: Headers, token: str) -> str | None:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        if cookie is not None and secrets.compare_digest(cookie.value.encode(), token.encode()):
            return None
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        stated = next((value for key, value in pairs if key == TOKEN), "")
        if scope["method"] == "GET" and secrets.compare_digest(stated.encode(), token.encode()):
            rest = urlencode([pair for pair in pairs if pair[0] != TOKEN])
            return f"/?{rest}" if rest else "/"
        raise Refused(401, "open the address with the token that `costmodel app` printed")


def _name_of(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "") if host.isascii() else ""


def _is_address(name: str) -> bool:
    """Tell whether a name is an IP address, which no one can have resolve elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bounded(receive: Receive) -> Receive:
    """Return what receives a body of bounded size, whatever its length claims."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return message if size <= LARGEST_BODY else {"type": "http.disconnect"}

    return bounded


def _with_headers(send: Send) -> Send:
    """Return what sends an answer that no other page may use."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sending


async def _reply(send: Send, status: int, content: object, headers: dict[str, str] | None = None) -> None:
    body = json.dumps(content).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS, **(headers or {})}
    start = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
