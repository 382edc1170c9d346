"""What every command of `python -m flywheel` shares: the application, its groups, and how a command ends when it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any

import typer
from rich.console import Console

from flywheel.errors import FlywheelError, from_os_error

app = typer.Typer(
    name="flywheel",
    help="Keep a fine-tuned model improving from its users' feedback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)


data = typer.Typer(help="Data set versions: what is learned from.", no_args_is_help=True)
app.add_typer(data, name="data")
review = typer.Typer(help="What people are asked: Label Studio and Prodigy.", no_args_is_help=True)
app.add_typer(review, name="review")
AS_JSON = Annotated[bool, typer.Option("--json", help="for programs")]


def command(function: Callable[..., None], group: typer.Typer = app) -> Callable[..., None]:
    """A command that ends in one sentence and the contract's exit code when it fails."""

    @group.command(name=function.__name__.removeprefix("data_").removeprefix("review_").replace("_", "-"))
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except FlywheelError as error:
            fail(error)
        except OSError as error:
            fail(from_os_error(error))

    return run


data_command = partial(command, group=data)
review_command = partial(command, group=review)


def fail(error: FlywheelError) -> None:
    """One sentence on stderr, and out."""
    print(f"flywheel: {error.sentence}", file=sys.stderr)
    raise typer.Exit(error.exit_code)
