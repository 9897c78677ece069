"""Access control: keys, rates, addresses behind proxies, pages of other origins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from qwen_captcha.api.security import (
    BROWSER_HEADERS,
    OPEN_ROUTES,
    PROBES,
    network_of,
)
from qwen_captcha.app import create_app
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    image_bytes,
)

KEYS = ("first-key-0123456789", "second-key-0123456789")
ClientFactory = Callable[..., FlaskClient]


@pytest.fixture
def start(backend: FakeBackend) -> Iterator[ClientFactory]:
    """Return the client of a ready application with settings given by their variables."""
    services = []

    def make(**variables: str) -> FlaskClient:
        app = create_app(load_settings(variables), backend)
        services.append(app.extensions["captcha_service"])
        assert services[-1].wait_until_loaded(MAX_WAIT_S)
        return app.test_client()

    yield make
    for service in services:
        service.begin_drain()


@pytest.fixture
def keyed(start: ClientFactory) -> FlaskClient:
    return start(API_KEYS=",".join(KEYS))


def read(client: FlaskClient, path: str = "/ocr", **headers: str) -> object:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, data=image_bytes(), content_type="image/png", headers=names)


@pytest.mark.parametrize("key", KEYS)
def test_each_known_key_gets_in_by_both_headers(keyed: FlaskClient, key: str) -> None:
    for headers in ({"X_API_Key": key}, {"Authorization": f"Bearer {key}"}):
        response = read(keyed, **headers)
        assert (response.status_code, response.json["text"]) == (200, "w120")


def test_a_known_key_counts_beside_another_one_and_with_any_sign_in_it(
    start: ClientFactory,
) -> None:
    key = "team=alpha-1234567890"
    client = start(API_KEYS=key)
    assert read(client, Authorization=f"bearer  {key}").status_code == 200
    assert read(client, Authorization="Bearer of a proxy", X_API_Key=key).status_code == 200
    assert read(client, Authorization=f"Bearer {key}", X_API_Key="other").status_code == 200


def test_a_rejection_has_the_shape_of_the_dialect(keyed: FlaskClient) -> None:
    text = keyed.post("/ocr/b64/text", data=b"x")
    assert (text.status_code, text.data) == (200, b"")
    assert keyed.post("/ocr/file/json", data=b"x").json["result"] == ""
    detail = keyed.post("/ocr/file", data=b"x")
    assert (detail.status_code, list(detail.json)) == (401, ["detail"])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_API_Key": ""},
        {"X_API_Key": KEYS[0][:-1]},
        {"X_API_Key": KEYS[0] + "0"},
        {"X_API_Key": ",".join(KEYS)},
        {"X_API_Key": "ключ"},
        {"Authorization": KEYS[0]},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic \xff"},
        {"Authorization": "Bearer \xff"},
    ],
    ids=str,
)
def test_no_other_key_does(
    keyed: FlaskClient, backend: FakeBackend, headers: dict[str, str]
) -> None:
    response = read(keyed, **headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json["error_type"] == "unauthorized"
    assert not response.json["success"]
    assert not any(key in response.get_data(as_text=True) for key in KEYS)
    assert backend.batches == []


def test_every_route_but_probes_and_pages_requires_a_key(keyed: FlaskClient) -> None:
    rules = list(keyed.application.url_map.iter_rules())
    assert set(OPEN_ROUTES) < {rule.rule for rule in rules}
    for rule in rules:
        path = rule.rule.replace("<any(text, json):form>", "json").replace("<path:_>", "x")
        for method in (rule.methods or set()) - {"OPTIONS"}:
            reply = keyed.open(path, method=method)
            refused = "WWW-Authenticate" in reply.headers  # ocr_api_server's status is always 200
            assert refused is (rule.rule not in OPEN_ROUTES), (method, path)
    assert keyed.get("/nowhere").status_code == 401
    assert keyed.get("/ocr").status_code == 401


def test_without_keys_none_is_needed(client: FlaskClient) -> None:
    assert read(client).status_code == 200
    assert read(client, X_API_Key="whatever").status_code == 200


def test_a_rejected_key_is_counted_and_not_logged(
    keyed: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    read(keyed, X_API_Key="guess-9876543210-guess")
    read(keyed, X_API_Key=KEYS[0])
    metrics = keyed.get("/metrics", headers={"X-API-Key": KEYS[0]}).get_data(as_text=True)
    assert 'qwen_captcha_rejections_total{reason="unauthorized"} 1.0' in metrics
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "unauthorized" in logged
    assert "guess-9876543210-guess" not in logged
    assert KEYS[0] not in logged


def test_requests_over_the_rate_get_a_retry_after(start: ClientFactory) -> None:
    client = start(RATE_LIMIT_PER_ADDRESS="3/hour")
    assert [read(client).status_code for _ in range(4)] == [200, 200, 200, 429]
    rejection = client.get("/nowhere")
    assert (rejection.status_code, rejection.json["error_type"]) == (429, "rate_limited")
    assert 1 <= int(rejection.headers["Retry-After"]) <= 7200
    for probe in PROBES:
        assert client.get(probe).status_code == 200


def test_another_address_has_a_rate_of_its_own(start: ClientFactory) -> None:
    client = start(RATE_LIMIT_PER_ADDRESS="1/hour")
    first, second = {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}
    statuses = [client.get("/nowhere", environ_base=base).status_code
                for base in (first, first, second, second)]  # fmt: skip
    assert statuses == [404, 429, 404, 429]


def test_a_key_has_one_rate_from_all_addresses(start: ClientFactory) -> None:
    client = start(API_KEYS=",".join(KEYS), RATE_LIMIT_PER_KEY="1/hour")
    statuses = [
        client.get(
            "/nowhere", headers={"X-API-Key": key}, environ_base={"REMOTE_ADDR": f"192.0.2.{last}"}
        ).status_code
        for last, key in enumerate((KEYS[0], KEYS[0], KEYS[1], KEYS[1]))
    ]
    assert statuses == [404, 429, 404, 429]


def test_wrong_keys_count_for_the_address(start: ClientFactory) -> None:
    client = start(API_KEYS=",".join(KEYS), RATE_LIMIT_PER_ADDRESS="2/hour")
    guesses = [read(client, X_API_Key=f"guess-{number:010}") for number in range(3)]
    assert [guess.status_code for guess in guesses] == [401, 401, 429]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "statuses"),
    [
        ("0", ("192.0.2.1", "192.0.2.2"), [404, 429]),
        ("1", ("192.0.2.1", "192.0.2.2"), [404, 404]),
        ("1", ("203.0.113.5, 192.0.2.1", "203.0.113.6, 192.0.2.1"), [404, 429]),
        ("2", ("192.0.2.1, 10.0.0.1", "192.0.2.2, 10.0.0.1"), [404, 404]),
        ("1", ("unknown", "unknown"), [404, 429]),
    ],
    ids=["not behind a proxy", "behind one", "what the caller adds", "behind two", "no address"],
)
def test_the_address_comes_from_trusted_proxies_only(
    start: ClientFactory, proxies: str, forwarded: tuple[str, ...], statuses: list[int]
) -> None:
    client = start(RATE_LIMIT_PER_ADDRESS="1/hour", TRUSTED_PROXY_COUNT=proxies)
    seen = [client.get("/x", headers={"X-Forwarded-For": value}) for value in forwarded]
    assert [response.status_code for response in seen] == statuses


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_one_client_is_an_address_or_a_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize("path", ["/ocr", "/health", "/nowhere"])
def test_no_page_of_another_origin_may_read_replies_by_default(
    client: FlaskClient, path: str
) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        response = client.open(path, method=method, headers={"Origin": "https://example.org"})
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


def test_the_pages_of_configured_origins_may(start: ClientFactory) -> None:
    client = start(CORS_ORIGINS="https://example.org", API_KEYS=KEYS[0])
    question = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, content-type",
    }
    preflight = client.options("/ocr", headers=question)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert "x-api-key" in preflight.headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    refused = read(client, Origin="https://example.org")
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (
        401,
        "https://example.org",
    )
    stranger = client.options("/ocr", headers={**question, "Origin": "https://example.org.evil"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


@pytest.mark.parametrize("allowed", ["", "https://example.org"], ids=["none", "another"])
def test_a_rejected_origin_gets_an_error_that_names_cors_origins(
    start: ClientFactory, allowed: str
) -> None:
    question = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    reply = start(CORS_ORIGINS=allowed).options("/ocr", headers=question)
    assert (reply.status_code, reply.json["error_type"]) == (403, "origin_not_allowed")
    assert "CORS_ORIGINS" in reply.json["error"]


def test_an_origin_with_a_bracket_is_no_pattern(start: ClientFactory) -> None:
    client = start(CORS_ORIGINS="http://[::1]:3000,https://example.org")
    for origin, allowed in (
        ("http://[::1]:3000", True),
        ("http://[::1]:30001", False),
        ("http://::3000", False),
        ("https://example.org", True),
    ):
        found = read(client, Origin=origin).headers.get("Access-Control-Allow-Origin")
        assert found == (origin if allowed else None)


@pytest.mark.parametrize("path", ["/health", "/ocr", "/nowhere"])
def test_a_reply_cannot_run_as_a_script(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers[name] for name in BROWSER_HEADERS} == BROWSER_HEADERS


def test_the_description_has_the_key(keyed: FlaskClient, client: FlaskClient) -> None:
    document = keyed.get("/openapi.json", headers={"X-API-Key": KEYS[0]}).json
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "401" in document["paths"]["/ocr"]["post"]["responses"]
    assert "401" not in document["paths"]["/health"]["get"]["responses"]
    assert client.get("/openapi.json").json["security"] == []
