"""What may stand in a log line."""

from serving.privacy import masked


def test_what_has_the_form_of_personal_data_is_masked_and_the_rest_stays():
    text = "Mail ada@example.org or call +44 20 7946 0958 from 10.0.0.1, see https://x.example/ada?t=1; DE89 3704 0044 0532 0130 00. Version 3.11 of 2026."
    assert masked(text) == "Mail [EMAIL] or call [NUMBER] from [IP], see [URL] [IBAN]. Version 3.11 of 2026."
