import pytest

from flywheel.config.steps import Secrets
from tasks.cleaning.record import Texts
from tasks.cleaning.secrets import secrets

WORD = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"
MASK, DROP = secrets(Secrets()), secrets(Secrets(policy="drop"))


def masked(text):
    return MASK(Texts((), "q", "", text))[0].output


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("AKIAIOSFODNN7EXAMPLE", "<secret>"),
        (f"use ghp_{WORD[:36]}.", "use <secret>."),
        (f"(AIza{WORD[:35]})", "(<secret>)"),
        (f"xoxb-123456789012-{WORD[:24]}", "<secret>"),
        (f"sk_live_{WORD[:24]} and sk-proj-{WORD}", "<secret> and <secret>"),
        (f"hf_{WORD[:34]}", "<secret>"),
        (f"https://hooks.slack.com/services/T0/B0/{WORD}", "https://<secret>"),
        (f"Authorization: Bearer {WORD}", "Authorization: Bearer <secret>"),
        (f"eyJhbGciOiJIUzI1NiJ9.eyJ{WORD}.{WORD}", "<secret>"),
        ("postgres://app:hunter2@db:5432/x", "postgres://app:<secret>@db:5432/x"),
        (f'"api_key": "{WORD}"', '"api_key": "<secret>"'),
        (f"AWS_SECRET_ACCESS_KEY={WORD}", "AWS_SECRET_ACCESS_KEY=<secret>"),
        (f"My contact: AWS_SECRET_ACCESS_KEY={WORD}", "My contact: AWS_SECRET_ACCESS_KEY=<secret>"),
        (f"-----BEGIN OPENSSH PRIVATE KEY-----\n{WORD}\n{WORD}\n-----END OPENSSH PRIVATE KEY----- x", "<secret> x"),
        (f"-----BEGIN RSA PRIVATE KEY-----\\n{WORD}{WORD} cut off", "<secret>"),
    ],
)
def test_secrets(text, result):
    assert masked(text) == result
    assert masked(result) == result
    assert DROP(Texts((text,), "q", "", "a"))[1].endswith(" was found (secrets: drop)")


@pytest.mark.parametrize(
    "text",
    [
        "The key is in the drawer; token: see the chapter on authentication_and_authorization.",
        "http://joe:password@proxy.example.com:3128 and http://user:${PASS}@host",
        "token = tokenize.generate_tokens, key=operator.itemgetter(1), secret: <secret>",
        "sha256=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "-----BEGIN PRIVATE KEY----- ... -----END PRIVATE KEY-----",
        "the sk-learn-like-estimator-interface and ghp_short, AKIA, eyJ, task_test_name",
        "password: correct-horse-battery-staple, key=long_identifier_name_2",
    ],
)
def test_what_is_none(text):
    assert masked(text) == text
    assert DROP(Texts((), "q", "", text))[1] == ""


def test_the_reason_says_what():
    assert DROP(Texts((), "q", "", "ftp://me:s3cr3t@host/"))[1] == "a password in a URL was found (secrets: drop)"
