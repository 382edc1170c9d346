"""Airflow reads this as each of its processes starts, by this name. What every stage's process would import is imported here, before those are forked.

With the Kubernetes launcher that is some two seconds of each task. Nothing of `dags`: a task reads that anew.
"""

from flywheel.settings import settings

__all__: list[str] = []  # nothing here is a setting of Airflow's

if settings().launcher == "kubernetes":
    import airflow.providers.cncf.kubernetes.operators.job
    import airflow.providers.cncf.kubernetes.operators.pod
    import airflow.providers.cncf.kubernetes.triggers.pod  # noqa: F401
