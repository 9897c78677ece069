"""Access control from the head of a request, before its body is read.

It has API keys, rate limits by key and by address, the origins whose pages may call (CORS), and the
security headers of replies. A key is compared in constant time, and is neither logged nor repeated
in a reply. Without settings nothing is rejected; probes and pages never are.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections.abc import Sequence

import limits
from flask import Flask, Request, Response, request
from flask_cors import CORS
from limits.strategies import SlidingWindowCounterRateLimiter
from werkzeug.middleware.proxy_fix import ProxyFix

from qwen_captcha.api.request_logging import (
    CACHE_HEADER,
    REQUEST_ID_HEADER,
    TIMING_HEADER,
)
from qwen_captcha.errors import OriginNotAllowed, RateLimited, Unauthorized
from qwen_captcha.settings import Settings
from qwen_captcha.value_parsers import Secret

# Probes of supervisors and load balancers, which have no key.
PROBES = ("/health", "/livez", "/readyz", "/ping")
# What a browser opens before its user has given a key; it describes the API, and nothing else.
PAGES = ("/", "/docs", "/openapi.json", "/assets/<path:filename>")
OPEN_ROUTES = PROBES + PAGES
KEY_HEADER = "X-API-Key"
READABLE_HEADERS = [CACHE_HEADER, REQUEST_ID_HEADER, TIMING_HEADER, "Retry-After"]
# A caller with one IPv6 address has all of its /64.
IPV6_PREFIX = 64
# A reply is data: no browser shall guess its type, run it, frame it. A page brings its own policy.
BROWSER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def register_security(app: Flask, settings: Settings) -> None:
    """Let only those requests of an application through that the settings allow."""
    by_address = RateLimit("address", settings.rate_limit_per_address)
    by_key = RateLimit("key", settings.rate_limit_per_key)
    if settings.trusted_proxy_count:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.trusted_proxy_count, x_proto=0, x_host=0
        )

    @app.before_request
    def reject() -> None:
        """Reject a page of another origin, a client over its rate, or one without a key."""
        reject_other_origins(request, settings.cors_origins)
        if is_open(request):
            return
        by_address.count(network_of(request.remote_addr or ""))
        if settings.api_keys:
            by_key.count(known_key(request, settings.api_keys))

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        """Add the security headers that a reply lacks."""
        for name, value in BROWSER_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    if settings.cors_origins:
        CORS(
            app,
            # A bracket of an IPv6 address would make a regular expression of it.
            origins=[
                re.compile(re.escape(origin) + r"\Z") if "[" in origin else origin
                for origin in settings.cors_origins
            ],
            methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", KEY_HEADER, REQUEST_ID_HEADER],
            expose_headers=READABLE_HEADERS,
        )


class RateLimit:
    """Rate limits of many callers; thread-safe, in the memory of this process.

    Args:
        name: What identifies a client, in the error message.
        rate: Such as `20/second`; empty for any.
    """

    def __init__(self, name: str, rate: str) -> None:
        self._name = name
        self._rate = limits.parse(rate) if rate else None
        self._limiter = SlidingWindowCounterRateLimiter(limits.storage.MemoryStorage())

    def count(self, caller: str) -> None:
        """Count one request.

        Raises:
            RateLimited: The caller has no more of them for now.
        """
        if self._rate is None or self._limiter.hit(self._rate, caller):
            return
        reset_s = self._limiter.get_window_stats(self._rate, caller).reset_time - time.time()
        raise RateLimited(
            f"Too many requests from this {self._name}: at most {self._rate} are allowed.",
            retry_after_s=max(1, math.ceil(reset_s)),
        )


def is_open(request: Request) -> bool:
    """Return whether a request needs no key: a probe, a page, a browser's question before one."""
    rule = request.url_rule
    return request.method == "OPTIONS" or (rule is not None and rule.rule in OPEN_ROUTES)


def reject_other_origins(request: Request, allowed: Sequence[str]) -> None:
    """Reject a browser's question before the call of a page that may not call.

    Raises:
        OriginNotAllowed: It is such a question; the page itself never sees the reply, its
            developer does.
    """
    origin = request.headers.get("Origin", "")
    is_question = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if is_question and "*" not in allowed and origin.lower() not in map(str.lower, allowed):
        raise OriginNotAllowed(
            "Pages of this origin may not call the service: its operator allows them with the "
            "setting CORS_ORIGINS."
        )


def known_key(request: Request, keys: Sequence[Secret]) -> str:
    """Return a name for the key of a request that does not give it away.

    Raises:
        Unauthorized: It has none, or one that is not known.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = [request.headers.get(KEY_HEADER, "")]
    if scheme.lower() == "bearer":
        given.append(token.strip())
    # Digests have one length, and all keys are compared: the time does not depend on any.
    known = [_digest(key.value) for key in keys]
    matches = [
        digest
        for digest in map(_digest, given)
        for other in known
        if hmac.compare_digest(digest, other)
    ]
    if not matches:
        raise Unauthorized(
            f"This service wants a key: send a known one as Authorization: Bearer or {KEY_HEADER}."
        )
    return matches[0].hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def network_of(address: str) -> str:
    """Return the address that is counted: an IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
