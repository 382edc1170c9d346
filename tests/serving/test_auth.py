"""The doors with real keys and real tokens: who gets in, and who does not."""

import asyncio
import base64
import hashlib
import http.server
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient

from flywheel.errors import ContractError
from serving import auth
from serving.auth import SCOPES, new_key


@pytest.fixture
def front(home, behaviour, monkeypatch):
    """The application without what its lifespan starts: the doors need no model."""
    from serving.app import app
    from serving.features import Features
    from serving.limits import Limits
    from serving.pool import Pool

    behaviour(auth="required")

    def client(**settings):
        behaviour(**settings)
        app.state.limits, app.state.draining, app.state.features = Limits(), False, Features(Pool())
        return TestClient(app, raise_server_exceptions=False)

    return client


def made(*scopes, **more):
    key, entry = new_key("web", list(scopes))
    return {"authorization": f"Bearer {key}"}, entry | more


def test_no_route_but_health_answers_without_a_credential_and_each_wants_its_scope(front, tmp_path):
    from serving.app import app

    credentials = {scope: made(scope) for scope in SCOPES}
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump([entry for _, entry in credentials.values()]))
    client = front(keys_file=keys)
    seen = 0
    paths = [(route.path, method) for route in app.routes for method in getattr(route, "methods", None) or ()]
    for path, method in [*paths, ("/v1/nothing", "GET"), ("//v1/models", "GET"), ("/v1/generate/", "POST")]:
        if path in auth.OPEN:
            continue
        seen += 1
        address = path.replace("{", "").replace("}", "").replace(":path", "")
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer"}):
            reply = client.request(method, address, headers=headers)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer", (path, headers)
            assert method == "HEAD" or reply.json()["error"]["type"] == "authentication_error"
        wanted = auth.scope_of(path)
        for scope, (headers, _) in credentials.items():
            if wanted and scope not in (wanted, "admin"):
                assert client.request(method, address, headers=headers).status_code == 403, (path, scope)
        assert client.request(method, address, headers=credentials[wanted or "generate"][0]).status_code not in (401, 403), path
    assert seen > 12
    assert client.get("/healthz").status_code == 200
    assert client.get("/openapi.json", headers=credentials["feedback"][0]).status_code == 200
    assert client.get("/v1/nothing", headers=credentials["admin"][0]).status_code == 404


def test_every_operation_says_its_scope(front):
    from serving.app import documented

    for path, operations in documented()["paths"].items():
        for operation in operations.values():
            assert path in auth.OPEN or {"key": []} in operation["security"]


def test_keys_expire_are_read_again_and_a_bad_file_is_named(front, tmp_path):
    headers, entry = made("metrics", expires=datetime.now(UTC) - timedelta(seconds=1))
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump([entry]))
    client = front(keys_file=keys)
    reply = client.get("/metrics", headers=headers)
    assert reply.status_code == 401 and "expired" in reply.text
    time.sleep(0.01)
    keys.write_text(yaml.safe_dump([{**entry, "expires": None}]))
    assert client.get("/metrics", headers=headers).status_code == 200
    time.sleep(0.01)
    keys.write_text("- {name: x, sha256: short, scopes: [generate]}")
    with pytest.raises(ContractError, match="API keys"):
        auth.keys()
    with pytest.raises(ContractError, match="scope"):
        new_key("web", ["everything"])


@pytest.fixture
def issuer():
    """An OIDC issuer: its discovery document and its keys over HTTP. Gives its address and a function that signs."""
    private, other = rsa.generate_private_key(public_exponent=65537, key_size=2048), ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key())) | {"kid": "one", "use": "sig", "alg": "RS256"}
    state = {"keys": [public]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            documents = {"/.well-known/openid-configuration": {"issuer": state["url"], "jwks_uri": f"{state['url']}/keys"}, "/keys": {"keys": state["keys"]}}
            content = json.dumps(documents[self.path]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state["url"] = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def sign(key=private, algorithm="RS256", kid="one", **change):
        claims = {"iss": state["url"], "aud": "flywheel", "sub": "ada", "exp": time.time() + 60, "scope": "metrics other"} | change
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers={"kid": kid})

    yield state["url"], sign, other, public
    server.shutdown()
    auth._issuer.cache_clear()


def test_tokens_of_the_issuer_are_taken_and_forged_ones_are_not(front, issuer):
    url, sign, other, public = issuer
    client = front(oidc_issuer=url, oidc_audience="flywheel", clock_skew_seconds=30)

    def status(token, path="/metrics"):
        return client.get(path, headers={"authorization": f"Bearer {token}"}).status_code

    assert status(sign()) == 200 and status(sign(exp=time.time() - 10)) == 200  # clocks differ
    assert status(sign(scope=["metrics"])) == 200
    assert status(sign(), "/v1/models") == 403 and status(sign(scope="other")) == 403
    empty = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=").decode()
    unsigned = f"{empty}.{sign().split('.')[1]}."
    shared = _with_public_key_as_secret(sign, public)
    bad = {
        "expired": sign(exp=time.time() - 100), "no end": sign(exp=None), "audience": sign(aud="another"), "issuer": sign(iss="http://elsewhere"),
        "not yet": sign(nbf=time.time() + 100), "key": sign(key=other, algorithm="ES256"), "unknown key": sign(kid="two"), "none": unsigned,
        "changed": sign()[:-8] + "AAAAAAAA", "nonsense": "a.b.c", "public key as a secret": shared, "subject": sign(sub=None),
    }  # fmt: skip
    assert {name: status(token) for name, token in bad.items()} == dict.fromkeys(bad, 401)


def _with_public_key_as_secret(sign, public):
    import hmac

    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    text = f"{head}.{sign().split('.')[1]}"
    mac = hmac.new(public["n"].encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_an_issuer_that_is_away_is_503(front):
    client = front(oidc_issuer="http://127.0.0.1:9", oidc_audience="flywheel")
    assert client.get("/metrics", headers={"authorization": "Bearer a.b.c"}).status_code == 503
    auth._issuer.cache_clear()


def test_rates_and_quotas_are_by_key_and_say_when_to_come_again(front, home):
    one, a = made("metrics")
    two, b = made("metrics")
    client = front(keys=yaml.safe_dump([a, {**b, "name": "other", "tier": "gold"}]), rate_limits='{"standard": "3/minute"}')
    told = [client.get("/metrics", headers=one) for _ in range(5)]
    assert [r.status_code for r in told] == [200, 200, 200, 429, 429]
    assert 1 <= int(told[-1].headers["retry-after"]) <= 120 and told[-1].json()["error"]["type"] == "rate_limit_error"
    assert client.get("/metrics", headers=two).status_code == 200 and client.get("/healthz").status_code == 200
    with pytest.raises(ContractError, match="600/minute"):
        front(rate_limits='{"standard": "many"}')


def test_replies_carry_secure_headers_and_no_cors(front):
    headers, entry = made("metrics")
    reply = front(keys=yaml.safe_dump([entry])).get("/metrics", headers={**headers, "origin": "http://evil.example"})
    assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers


def test_with_redis_away_nobody_is_refused_and_it_is_counted(behaviour):
    from serving.limits import AWAY, Limits

    behaviour(rate_limits='{"standard": "1/minute"}', quotas='{"standard": "1/day"}', limits_url="redis://127.0.0.1:9")
    before, limits = AWAY._value.get(), Limits()

    async def twice():
        for _ in range(2):
            await limits.admit(auth.ANYBODY)
            await limits.spend(auth.ANYBODY, 100)

    asyncio.run(twice())
    assert AWAY._value.get() == before + 4
