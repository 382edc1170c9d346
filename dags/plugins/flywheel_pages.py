"""Airflow's plugin: `dags/pages` under /flywheel of the API server. Set AIRFLOW__CORE__PLUGINS_FOLDER to this folder.

Every component of Airflow imports its plugins, each task too: so this imports nothing before the first request.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application, imported when it is first asked."""
    from dags.pages.app import app

    await app(scope, receive, send)


class FlywheelPages(AirflowPlugin):
    """Mounts the pages."""

    name = "flywheel_pages"
    fastapi_apps = [{"app": pages, "url_prefix": "/flywheel", "name": "flywheel"}]
