"""Roles, from what a token says."""

import pytest

from ui.doors import Person, roles_of


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({"roles": ["user", "cook"]}, "roles", {"user"}),
        ({"realm_access": {"roles": ["operator"]}}, "realm_access.roles", {"operator"}),
        ({"groups": "user, reviewer"}, "groups", {"user", "reviewer"}),
        ({"roles": None}, "roles", set()),
        ({"roles": {"user": True}}, "roles", set()),
        ({}, "realm_access.roles", set()),
    ],
)
def test_roles_come_from_the_claim_and_from_nowhere_else(claims, path, roles):
    assert roles_of(claims, path) == roles


def test_who_has_more_may_do_less_too():
    assert Person("a", frozenset({"operator"})).may("reviewer") and Person("a", frozenset({"reviewer"})).may("user")
    assert not Person("a", frozenset({"user"})).may("reviewer") and not Person("a", frozenset()).may("user")
