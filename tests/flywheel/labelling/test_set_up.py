"""Off unless set: `make review` makes a secret, and from then on everything on this machine knows where Label Studio is."""

from flywheel.laptop import services
from flywheel.settings import settings


def test_off_until_a_secret_is_made(home, monkeypatch):
    for name in ("URL", "TOKEN", "SECRET"):
        monkeypatch.delenv(f"FLYWHEEL_LABEL_STUDIO_{name}", raising=False)
    assert settings().label_studio_url == "" and "label-studio" not in [s.name for s in services.services(settings())]
    services.secret(home, "label-studio")
    settings.cache_clear()
    conf = settings()
    assert conf.label_studio_url.startswith("http://127.0.0.1:") and len(conf.label_studio_token) == 40 and len(conf.label_studio_secret) == 64
    assert conf.label_studio_token not in conf.label_studio_secret and conf.label_studio_token not in repr(conf)
    (service,) = [s for s in services.services(conf) if s.name == "label-studio"]
    assert service.environment["LABEL_STUDIO_USER_TOKEN"] == conf.label_studio_token and service.command[-1] == "18082"
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", "http://elsewhere:80")
    settings.cache_clear()
    assert settings().label_studio_token == ""  # a server elsewhere has a token of its own
