import pytest

from flywheel.config.steps import Personal
from tasks.cleaning.personal import personal
from tasks.cleaning.record import Texts

MASK, DROP = personal(Personal()), personal(Personal(policy="drop"))


def masked(text):
    return MASK(Texts((), "q", "", text))[0].output


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Mail jane.doe+news@mail.example.co.uk.", "Mail <email>."),
        ("<müller@bücher.example>, x@y.io", "<<email>>, <email>"),
        ("IBAN DE89 3704 0044 0532 0130 00 and thanks", "IBAN <iban> and thanks"),
        ("GB29NWBK60161331926819", "<iban>"),
        ("card 4111 1111 1111 1111, 12/27", "card <card>, 12/27"),
        ("3782-822463-10005 or 5555555555554444", "<card> or <card>"),
        ("It came from 85.214.132.117:443 (2a02:8108::1)", "It came from <ip>:443 (<ip>)"),
        ("http://93.184.216.34/index.html", "http://<ip>/index.html"),
        ("Call +49 30 901820", "Call <phone>"),
        ("030 12345678 0171 1234567 12 people", "<phone> <phone> 12 people"),
    ],
)
def test_personal_data(text, result):
    assert masked(text) == result
    assert masked(result) == result
    assert DROP(Texts((), "q", "", "a", rejected=text))[1].endswith(" was found (personal: drop)")


@pytest.mark.parametrize(
    "text",
    [
        "Use @functools.wraps, ssh admin@host, a @ b.T and git@github.com:owner/repo.git.",
        "DE89 3704 0044 0532 0130 01 has a wrong checksum, as has 4111 1111 1111 1112; 1234567812345670 is no issuer's.",
        "127.0.0.1, 10.0.0.12, 192.168.1.20, 172.16.31.4, 203.0.113.77, 169.254.10.11, 255.255.255.0, ::1, fe80::1, 2001:db8::1",
        "version 31.14.15.92, package==12.10.11.13, 1.2.3.4, 8.8.8.8, 3.2.2.10, Chrome/90.0.44.72, 1.3.6.1.4.1.311, 1.0.0.127.in-addr.arpa",
        "std::vector, 12:30:45, 00:1b:44:11:3a:b7, a[2000:3000:1], 224.0.0.251",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 and 0.4111111111111111",
    ],
)
def test_what_leads_to_nobody(text):
    assert masked(text) == text
    assert DROP(Texts((), "q", "", text))[1] == ""


def test_kinds_and_reasons():
    only = personal(Personal(kinds=("card",), policy="drop"))
    assert only(Texts((), "jane@doe.org", "", "4111111111111111"))[1] == "a payment card was found (personal: drop)"
    assert only(Texts((), "jane@doe.org", "", "fine"))[1] == ""
    assert DROP(Texts((), "q", "", "jane@doe.org"))[1] == "an e-mail address was found (personal: drop)"
