"""A small OpenID Connect provider: it logs everybody in at once, as whoever the test says. Its tokens are signed, and checked, for real."""

from __future__ import annotations

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa


class Identity:
    """The provider. `claims` is what the next login's token says."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.claims: dict[str, Any] = {}
        self.seconds = 3600
        self.nonces: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(where.query).items()}
                if where.path == "/authorize":
                    code = secrets.token_hex(8)
                    provider.nonces[code] = asked.get("nonce", "")
                    self.send_response(302)
                    self.send_header("location", f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}")
                    self.end_headers()
                else:
                    self.give(provider.keys() if where.path == "/keys" else provider.discovery())

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                self.give(provider.tokens(form["code"][0]))

            def give(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def discovery(self) -> dict[str, Any]:
        """The provider's own description."""
        return {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
        }  # fmt: skip

    def keys(self) -> dict[str, Any]:
        """Its public key."""
        return {"keys": [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key())) | {"kid": "one", "use": "sig", "alg": "RS256"}]}

    def tokens(self, code: str) -> dict[str, Any]:
        """What a code is exchanged for."""
        now = int(time.time())
        said = {"iss": self.url, "aud": "page", "iat": now, "exp": now + self.seconds, "nonce": self.nonces.pop(code), **self.claims}
        token = jwt.encode(said, self.key, "RS256", headers={"kid": "one"})
        return {"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": self.seconds}
