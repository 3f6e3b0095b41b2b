"""The door before each server that we start: who asks, for which host, from which page, with which credentials.

It stands before the applications of Prefect and MLflow alike, which themselves let everybody in. A request passes if

1. its Host is a name of this machine's loopback or the home's own page name (an attacker's name that resolves to
   loopback is not),
2. its Origin, where it has one, is that host, and the browser does not call it cross-site; a page elsewhere may lead
   a person here, no more,
3. it brings the home's secret (programs: HTTP Basic) or a session's cookie (browsers, under the page name only).

Prefect's clients open some WebSockets without the header and send the secret as the first message: such a handshake
is accepted if no browser sent it, and nothing reaches the application before that message.
"""

import hmac
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from flows.servers.access import Access

COOKIE = "nightschool"
LOOPBACK_NAMES = {"127.0.0.1", "localhost", "[::1]"}
REFUSED = 1008
"""The code with which a WebSocket is closed for a violated policy."""
HEADERS = (
    # The pages call nobody but this server (Prefect's would ask Amplitude for a session whatever we set), and nobody
    # else's page shows them in a frame; MLflow shows artifacts in frames of its own.
    (b"content-security-policy", b"connect-src 'self'; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer, with which browsers send "Origin: null" to the page's own server.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Door:
    """An ASGI application that passes to `app` what may pass.

    Args:
        app: the application behind the door.
        access: what opens it.
        landing: where a browser goes that has opened a link.
    """

    def __init__(self, app: "ASGIApp", access: "Access", landing: str = "/") -> None:
        self._app = app
        self._access = access
        self._landing = landing

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one connection: pass it to the application, or refuse it with 401, 403 or a closed WebSocket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        send = _with_headers(send)
        if said := self._stranger(scope, headers):
            await _refuse(scope, receive, send, 403, said)
        elif scope["type"] == "http" and scope["path"] == "/enter" and self._is_page_host(headers):
            await self._enter(scope, receive, send)
        elif self._has_secret(headers) or self._has_session(headers):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket" and _sends_secret_later(scope, headers):
            await self._first_message_decides(scope, receive, send)
        else:
            said = "this needs the home's secret or a session; `nightschool up` prints a link that opens the pages"
            await _refuse(scope, receive, send, 401, said)

    def _stranger(self, scope: "Scope", headers: "Headers") -> str | None:
        """Why a request cannot come from a program or page of this home, whatever its credentials; None if it may."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _name(hosts[0]) not in {*LOOPBACK_NAMES, self._access.page_host}:
            return "this server is not known by that Host; use the address that `nightschool up` prints"
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return "pages of another Origin may not use this server"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_visit(scope, headers):
            return "pages of another site may not use this server"
        return None

    def _is_page_host(self, headers: "Headers") -> bool:
        return _name(headers["host"]) == self._access.page_host

    def _has_secret(self, headers: "Headers") -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        wanted = self._access.authorization.partition(" ")[2]
        return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), wanted.encode())

    def _has_session(self, headers: "Headers") -> bool:
        from starlette.requests import cookie_parser

        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        return bool(cookie) and self._is_page_host(headers) and self._access.is_session(str(cookie))

    async def _enter(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Trade a link for a session. The page goes on by itself, not by a redirect: after one, a browser that was
        led here from elsewhere would not send the new cookie."""
        links = parse_qs(scope["query_string"].decode("latin-1")).get("once", [])
        session = self._access.redeem(links[0]) if scope["method"] == "GET" and len(links) == 1 else None
        if session is None:
            said = "this link was used before or is older than ten minutes; `nightschool up` prints a new one"
            await _refuse(scope, receive, send, 401, said)
            return
        page = f'<!doctype html><title>Nightschool</title><meta http-equiv="refresh" content="0; url={self._landing}">'
        cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict"
        await _answer(send, 200, page, "text/html", (b"set-cookie", cookie.encode()))

    async def _first_message_decides(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        admitted = False

        async def checked_receive() -> "Message":
            nonlocal admitted
            message = await receive()
            if message["type"] == "websocket.receive" and not admitted:
                admitted = self._is_secret(message)
                if not admitted:
                    await send({"type": "websocket.close", "code": REFUSED, "reason": "Invalid token"})
                    return {"type": "websocket.disconnect", "code": REFUSED}
            return message

        async def checked_send(message: "Message") -> None:
            if admitted or message["type"] != "websocket.send":
                await send(message)

        await self._app(scope, checked_receive, checked_send)

    def _is_secret(self, message: "Message") -> bool:
        """Whether a WebSocket's message is the one by which Prefect's clients prove themselves."""
        try:
            content = json.loads(message.get("text") or message.get("bytes") or "")
            token = str(content["token"])
        except (ValueError, TypeError, KeyError):
            return False
        return hmac.compare_digest(token.encode(), self._access.auth_string.encode())


def _name(host: str) -> str:
    """A Host without its port. The port may be any: behind a tunnel it is another than ours."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _is_visit(scope: "Scope", headers: "Headers") -> bool:
    """Whether a person is led here, as opposed to a page that uses us."""
    wanted = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    return scope.get("method") == "GET" and all(headers.get(name) == value for name, value in wanted.items())


def _sends_secret_later(scope: "Scope", headers: "Headers") -> bool:
    return "origin" not in headers and "prefect" in scope["subprotocols"]


def _with_headers(send: "Send") -> "Send":
    async def send_with_headers(message: "Message") -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return send_with_headers


async def _refuse(scope: "Scope", receive: "Receive", send: "Send", status: int, said: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": REFUSED, "reason": said})
    else:
        await _answer(send, status, f"Nightschool: {said}.\n", "text/plain")


async def _answer(send: "Send", status: int, body: str, kind: str, *headers: tuple[bytes, bytes]) -> None:
    content = body.encode()
    fixed = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": content})
