import pytest

from flywheel.config.steps import Personal
from flywheel.errors import ContractError
from tasks.cleaning.phones import phone

MASK = phone(Personal().regions)


@pytest.mark.parametrize(
    "number",
    [
        "+1 415 555 2671", "+14155552671", "+49 (0)30 1234567", "+44 20 7946 0958", "+33 1 23 45 67 89", "+7 912 345-67-89", "0049 30 12345678",
        "(415) 555-2671", "415-555-2671", "415.555.2671", "1-800-555-0199", "+1 (555) 123-4567", "030 12345678", "030/1234567", "(030) 1234567",
        "0171/1234567", "020 7946 0958", "07911 123456", "01 42 68 53 00", "06-12345678", "044 668 18 00", "03-1234-5678", "0412 345 678", "(11) 91234-5678",
    ],
)  # fmt: skip
def test_numbers_by_their_form(number):
    assert MASK(f"Ask {number}.") == "Ask <phone>."
    assert MASK(f"Ask ({number}), in 2024 or so") == "Ask (<phone>), in 2024 or so"


@pytest.mark.parametrize("text", ["Call me at {}.", "tel.: {}", "Phone:{}", "my number is {}", "WhatsApp {} please"])
def test_digits_after_a_word(text):
    for number in ("4155552671", "98765 43210", "912 34 56 78"):
        assert MASK(text.format(number)) == text.format("<phone>")
    assert MASK("Call 555-0199") == "Call <phone>"
    assert MASK("It is 555-0199 or 4155552671") == "It is 555-0199 or 4155552671"


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-0-13-110362-7", "ISBN 0-306-40615-2", "978 0 13 110362 7", "2147483647", "2024-01-15", "01.02.2024 12.30", "10.1145/3368089.3409742",
        "3.14159265358979", "1,000,000,000", "192.168.100.200", "0123456789", "0 1 2 3 4 5 6 7 8 9", "1700000000", "RFC 2822 3696 5321",
        "550e8400-e29b-41d4-a716-446655440000", "00 01 02 03 04 05 06 07", "0.30000000000000004", "100 200 300 4000", "2001-2010, 1999-2005",
        "65535 32768 16384", "call f(1234567)", "a call of 2024-01-15 10", "Decimal('+35236450.6')", "Phys. Rev. E 71(6), 065103 (2005)", "E (72) 056127",
        "call timestamps such as 1700000000",
    ],
)  # fmt: skip
def test_other_numbers(text):
    assert MASK(f"It says {text}.") == f"It says {text}."


def test_an_unknown_region_is_refused():
    with pytest.raises(ContractError, match="`XX` is not known"):
        phone(("US", "XX"))
