"""A registry with versions, for the commands of the handbook."""

from tests.flywheel.conftest import register

__all__ = ["register"]
