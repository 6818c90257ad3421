"""Who is let in, and how much they may send."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("starlette", reason="the extra [app] is not installed")

from costmodel.app.guard import COOKIE, LARGEST_BODY, LONGEST_QUERY, Guard
from costmodel.app.server import Settings, is_loopback, with_token

OWN = {"host": "127.0.0.1:8421"}


async def _page(_, receive, send):
    """Answer 200 with the size of the body, or 400 where it is cut."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            await send({"type": "http.response.start", "status": 400, "headers": []})
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})


def asked(headers, *, token=None, method="GET", query=b"", body=(b"",)):
    """Return status and headers of the answer to one request."""
    sent = []
    parts = [{"type": "http.request", "body": part, "more_body": i + 1 < len(body)} for i, part in enumerate(body)]

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": "/", "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(Guard(_page, token=token, names=("localhost", "planner"))(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200), ({"host": "localhost:1"}, 200), ({"host": "Planner"}, 200), ({"host": "[::1]:8421"}, 200),
        ({"host": "evil.example:8421"}, 421), ({}, 421), ({"host": "127.0.0.1.evil.example"}, 421),
        ({**OWN, "origin": "http://127.0.0.1:8421"}, 200), ({**OWN, "origin": "http://evil.example"}, 403),
        ({**OWN, "origin": "null"}, 403), ({**OWN, "origin": "http://127.0.0.1:9999"}, 403),
        ({**OWN, "sec-fetch-site": "cross-site"}, 403), ({**OWN, "sec-fetch-site": "same-site"}, 403),
        ({**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({**OWN, "content-length": str(LARGEST_BODY + 1)}, 413), ({**OWN, "content-length": "-1"}, 413),
        ({**OWN, "content-length": "9" * 5000}, 413), ({**OWN, "content-length": "\u00b2"}, 413),
    ],
)  # fmt: skip
def test_pages_of_other_sites_and_names_are_refused(headers, status):
    assert asked(headers)[0] == status


def test_a_body_is_cut_whatever_length_it_claims():
    assert asked(OWN, method="POST", body=[b"x" * 1024] * (LARGEST_BODY // 1024))[0] == 200
    assert asked(OWN, method="POST", body=[b"x" * 1024] * (LARGEST_BODY // 1024 + 1))[0] == 400
    assert asked(OWN, query=b"x" * (LONGEST_QUERY + 1))[0] == 414


def test_a_token_opens_once_and_is_a_cookie_from_then_on():
    assert asked(OWN, token="secret")[0] == 401
    assert asked(OWN, token="secret", query=b"token=guess")[0] == 401
    assert asked({**OWN, "cookie": f"{COOKIE}=guess"}, token="secret")[0] == 401
    assert asked(OWN, token="secret", method="POST", query=b"token=secret")[0] == 401
    status, headers = asked(OWN, token="secret", query=b"of=a&token=secret")
    assert (status, headers["location"]) == (303, "/?of=a")
    assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
    assert asked({**OWN, "cookie": f"{COOKIE}=secret"}, token="secret")[0] == 200


def test_what_is_sent_can_be_used_by_no_other_page():
    _, headers = asked(OWN)
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_others_than_this_machine_need_a_token():
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert with_token(Settings()).token is None
    first, second = (with_token(Settings(host="0.0.0.0")).token for _ in range(2))
    assert first != second
    assert len(first) >= 32
