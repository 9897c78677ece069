"""Access control: API keys, rate limits by key and by address, CORS and security headers.

Requests are checked before their body is read. A key is compared in constant time, and is neither
logged nor repeated in a reply. Without settings nothing is rejected. Probes and pages are never
rejected.
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

# Routes of probes: supervisors and load balancers have no key.
PROBES = ("/health", "/livez", "/readyz", "/ping")
# Routes that a browser opens before its user has entered a key. They only describe the API.
PAGES = ("/", "/docs", "/openapi.json", "/assets/<path:filename>")
OPEN_ROUTES = PROBES + PAGES
KEY_HEADER = "X-API-Key"
READABLE_HEADERS = [CACHE_HEADER, REQUEST_ID_HEADER, TIMING_HEADER, "Retry-After"]
# A caller with one IPv6 address has all of its /64.
IPV6_PREFIX = 64
# A browser must not guess the type of a reply, run it or show it in a frame. Pages set a policy of
# their own.
BROWSER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def register_security(app: Flask, settings: Settings) -> None:
    """Reject requests to an application that the settings do not allow."""
    by_address = RateLimit("address", settings.rate_limit_per_address)
    by_key = RateLimit("key", settings.rate_limit_per_key)
    if settings.trusted_proxy_count:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.trusted_proxy_count, x_proto=0, x_host=0
        )

    @app.before_request
    def reject() -> None:
        """Reject a preflight of another origin, a client over its rate, or one without a key."""
        reject_other_origins(request, settings.cors_origins)
        if is_open(request):
            return
        by_address.count(network_of(request.remote_addr or ""))
        if settings.api_keys:
            by_key.count(key_digest(request, settings.api_keys))

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        """Add the security headers that a reply lacks."""
        for name, value in BROWSER_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    if settings.cors_origins:
        CORS(
            app,
            # flask_cors treats an origin with the bracket of an IPv6 address as a regex.
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
        name: The word for a client in the error message: `key` or `address`.
        rate: The limit, such as `20/second`; empty for no limit.
    """

    def __init__(self, name: str, rate: str) -> None:
        self._name = name
        self._rate = limits.parse(rate) if rate else None
        self._limiter = SlidingWindowCounterRateLimiter(limits.storage.MemoryStorage())

    def count(self, caller: str) -> None:
        """Count one request.

        Raises:
            RateLimited: The client is over its rate.
        """
        if self._rate is None or self._limiter.hit(self._rate, caller):
            return
        reset_s = self._limiter.get_window_stats(self._rate, caller).reset_time - time.time()
        raise RateLimited(
            f"Too many requests from this {self._name}: at most {self._rate} are allowed.",
            retry_after_s=max(1, math.ceil(reset_s)),
        )


def is_open(request: Request) -> bool:
    """Return whether a request needs no key: a probe, a page or a CORS preflight."""
    rule = request.url_rule
    return request.method == "OPTIONS" or (rule is not None and rule.rule in OPEN_ROUTES)


def reject_other_origins(request: Request, allowed: Sequence[str]) -> None:
    """Reject a CORS preflight of a page whose origin is not allowed.

    Raises:
        OriginNotAllowed: The origin is not allowed. A browser shows the reply to the developer of
            the page, not to the page.
    """
    origin = request.headers.get("Origin", "")
    is_preflight = (
        request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    )
    if is_preflight and "*" not in allowed and origin.lower() not in map(str.lower, allowed):
        raise OriginNotAllowed(
            "Pages of this origin may not send requests to the service; its operator can allow "
            "them with CORS_ORIGINS."
        )


def key_digest(request: Request, keys: Sequence[Secret]) -> str:
    """Return the digest of the valid key of a request, by which its requests are counted.

    Raises:
        Unauthorized: The request has no key, or one that is not in the settings.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = [request.headers.get(KEY_HEADER, "")]
    if scheme.lower() == "bearer":
        given.append(token.strip())
    # All digests have one length and all keys are compared, so that the time depends on no key.
    known = [_digest(key.value) for key in keys]
    matches = [
        digest
        for digest in map(_digest, given)
        for other in known
        if hmac.compare_digest(digest, other)
    ]
    if not matches:
        raise Unauthorized(
            f"This service requires a valid key: send it as Authorization: Bearer or {KEY_HEADER}."
        )
    return matches[0].hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def network_of(address: str) -> str:
    """Return the client for the rate limit: an IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
