"""The task that looks for what nobody noticed: `flywheel.watch`, here in Airflow's worker, since it asks Airflow and sends messages."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator


class Watch(BaseOperator):
    """Looks once."""

    ui_color = "#efe8f3"

    def execute(self, context: Any) -> None:
        """A line for each finding."""
        from flywheel import watch

        for line in watch.once():
            self.log.info("%s", line)
