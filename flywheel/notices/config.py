"""`notices.yaml`: who is told of what, where, and when not. config/notices.yaml is an example with every kind of channel."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, ValidationError, field_validator

from flywheel.config.section import Section
from flywheel.errors import ContractError
from flywheel.settings import settings

Kind = Literal["result", "failure", "approval", "reminder", "late", "hang", "missed", "queue", "test"]
KINDS: tuple[Kind, ...] = get_args(Kind)
URGENT: tuple[Kind, ...] = ("failure", "hang", "late", "test")


class Channel(Section):
    """What every channel has."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    about: tuple[Kind, ...] = Field(("result", "failure", "approval", "reminder", "late", "hang", "missed", "queue"), description="What it is told of")


class Webhook(Channel):
    """An incoming webhook; its address is a secret, and so in a file."""

    url_file: str = Field(min_length=1, description="Holds the address; relative to notices.yaml")


class Slack(Webhook):
    """Slack, or what speaks like it (Mattermost, Rocket.Chat)."""

    kind: Literal["slack"]


class Teams(Webhook):
    """Microsoft Teams: a workflow that posts what its webhook gets."""

    kind: Literal["teams"]


class Mail(Channel):
    """Mail by SMTP, one to each person."""

    kind: Literal["mail"]
    to: tuple[str, ...] = Field(min_length=1)
    sender: str = "flywheel@localhost"
    server: str = Field("127.0.0.1:25", pattern=r"^[^:]+:\d+$", description="host:port")
    security: Literal["none", "starttls", "tls"] = "starttls"
    user: str = ""
    password_file: str = Field("", description="Relative to notices.yaml")


class Alertmanager(Channel):
    """An alert at FLYWHEEL_ALERTMANAGER_URL: from there its routes go on, e.g. to PagerDuty."""

    kind: Literal["alertmanager"]
    about: tuple[Kind, ...] = ("failure", "hang", "late")


class Quiet(Section):
    """Hours in which only what is urgent is sent; the rest waits for their end."""

    begin: time
    end: time
    timezone: str = "UTC"
    but: tuple[Kind, ...] = Field(URGENT, description="What is sent all the same")

    @field_validator("timezone")
    @classmethod
    def _exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("there is no such time zone; write e.g. Europe/Lisbon") from error
        return value

    def until(self, kind: Kind, now: datetime) -> datetime:
        """When a message of this kind may be sent: now, or at the end of the quiet hours that it falls into."""
        here = now.astimezone(ZoneInfo(self.timezone))
        within = self.begin <= here.time() < self.end if self.begin < self.end else here.time() >= self.begin or here.time() < self.end
        if kind in self.but or not within:
            return now
        morning = here.replace(hour=self.end.hour, minute=self.end.minute, second=0, microsecond=0)
        return morning if morning > here else morning + timedelta(days=1)


class Notices(Section):
    """The whole file."""

    channels: tuple[Annotated[Slack | Teams | Mail | Alertmanager, Field(discriminator="kind")], ...] = ()
    quiet: Quiet | None = None
    templates: str = Field("", description="Folder with templates of your own, e.g. failure.txt; relative to notices.yaml")

    @field_validator("channels")
    @classmethod
    def _names_once(cls, value: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if len({channel.name for channel in value}) < len(value):
            raise ValueError("two channels have the same name")
        return value


def path() -> Path:
    """Where the file lies, or would."""
    return Path(settings().notices)


def load() -> Notices:
    """The file; without one nobody is told. Raises ContractError naming file, field and mend."""
    try:
        found = yaml.safe_load(path().read_text())
        return Notices.model_validate({} if found is None else found)
    except FileNotFoundError:
        return Notices()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ContractError(
            f"`{field}`: {first['msg'][:1].lower()}{first['msg'][1:]}", where=str(path()), mend="config/notices.yaml shows every key."
        ) from error
    except yaml.YAMLError as error:
        raise ContractError(f"this is not YAML ({' '.join(str(error).split())[:200]})", where=str(path()), mend="Mend that line.") from error


def secret(file: str) -> str:
    """What a secret file holds. Raises ContractError when it cannot be read."""
    place = path().parent / file
    try:
        return place.read_text().strip()
    except OSError as error:
        raise ContractError(f"it cannot be read ({error.strerror})", where=str(place), mend="Put the secret there, readable by this user alone.") from error
