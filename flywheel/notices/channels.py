"""How a message is sent by each kind of channel. Raises TransientError when that fails, ContractError when its set-up is wrong."""

from __future__ import annotations

import html
import smtplib
import ssl
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import httpx

from flywheel.errors import ContractError, TransientError
from flywheel.notices import approving
from flywheel.notices.config import Alertmanager, Channel, Mail, Slack, Teams, secret
from flywheel.notices.message import Message
from flywheel.settings import settings

SECONDS = 5.0  # a task that ended waits for its message
ALERT_MINUTES = 30  # after which the alert is over, if nobody says it again


def links_for(message: Message, who: str) -> dict[str, str]:
    """The message's links, and the signed one with which this receiver can answer."""
    return {**message.links, **({"Approve or hold": approving.link(message.ask, who)} if message.ask else {})}


def send(channel: Channel, message: Message) -> None:
    """Send it."""
    if isinstance(channel, Slack):
        _post(channel, secret(channel.url_file), slack(message, links_for(message, f"{channel.name} (slack)")))
    elif isinstance(channel, Teams):
        _post(channel, secret(channel.url_file), teams(message, links_for(message, f"{channel.name} (teams)")))
    elif isinstance(channel, Alertmanager):
        _post(channel, f"{settings().alertmanager_url}/api/v2/alerts", alerts(message))
    elif isinstance(channel, Mail):
        _mail(channel, message)


def _post(channel: Channel, url: str, body: Any) -> None:
    try:
        reply = httpx.post(url, json=body, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TransientError(f"its webhook does not answer ({type(error).__name__})", where=f"channel {channel.name}", mend="It is tried again.") from error
    if reply.is_error:
        raise TransientError(f"its webhook answers with {reply.status_code}: {reply.text[:200]}", where=f"channel {channel.name}", mend="It is tried again.")


def slack(message: Message, links: dict[str, str]) -> dict[str, Any]:
    """As Slack's incoming webhooks take it; what data and models say can neither format nor call anybody."""

    def plain(text: str) -> str:
        return html.escape(text, quote=False)

    buttons = " · ".join(f"<{url}|{plain(name)}>" for name, url in links.items())
    parts = [f"*{plain(message.title)}*", plain(message.text), buttons]
    return {"text": plain(message.title), "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": part}} for part in parts if part]}


def teams(message: Message, links: dict[str, str]) -> dict[str, Any]:
    """As an adaptive card, which Teams' workflows post."""
    body = [{"type": "TextBlock", "text": message.title, "weight": "Bolder", "size": "Medium", "wrap": True}]
    body += [{"type": "TextBlock", "text": line, "wrap": True} for line in message.text.splitlines() if line]  # type: ignore[misc]
    actions = [{"type": "Action.OpenUrl", "title": name, "url": url} for name, url in links.items()]
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body, "actions": actions}
    return {"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}]}


def alerts(message: Message) -> list[dict[str, Any]]:
    """As Alertmanager's API takes it; the title is what tells one alert from another."""
    labels = {"alertname": f"Flywheel{message.kind.capitalize()}", "severity": "critical", "job": "flywheel", "about": message.title}
    notes = {"summary": message.title, "description": message.text, "runbook_url": next(iter(message.links.values()), "")}
    now = datetime.now(UTC)
    return [{"labels": labels, "annotations": notes, "startsAt": now.isoformat(), "endsAt": (now + timedelta(minutes=ALERT_MINUTES)).isoformat()}]


def _mail(channel: Mail, message: Message) -> None:
    host, _, number = channel.server.rpartition(":")
    port, context = int(number), ssl.create_default_context()
    try:
        tls = channel.security == "tls"
        with smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context) if tls else smtplib.SMTP(host, port, timeout=SECONDS) as server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.user:
                server.login(channel.user, secret(channel.password_file))
            for person in channel.to:
                server.send_message(letter(message, channel.sender, person))
    except smtplib.SMTPAuthenticationError as error:
        raise ContractError("the mail server does not accept this user", where=f"channel {channel.name}", mend="Mend user and password_file.") from error
    except (OSError, smtplib.SMTPException) as error:
        raise TransientError(f"the mail server does not take it ({error})", where=f"channel {channel.name}", mend="It is tried again.") from error


def letter(message: Message, sender: str, person: str) -> EmailMessage:
    """The mail to one person."""
    found = EmailMessage()
    found["Subject"], found["From"], found["To"] = " ".join(message.title.split()), sender, person
    found["Auto-Submitted"] = "auto-generated"
    links = links_for(message, person)
    found.set_content("\n\n".join(part for part in (message.text, "\n".join(f"{name}: {url}" for name, url in links.items())) if part) + "\n")
    listed = "".join(f'<p><a href="{html.escape(url)}">{html.escape(name)}</a></p>' for name, url in links.items())
    said = "".join(f"<p>{html.escape(line)}</p>" for line in message.text.splitlines() if line)
    found.add_alternative(f"<h3>{html.escape(message.title)}</h3>{said}{listed}", subtype="html")
    return found
