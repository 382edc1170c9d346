"""Pages of a run inside Airflow's web server: what the links of its tasks lead to.

    GET /flywheel/<dag>/<run>/<page>              turn, report, card, data, feedback: from the store
    GET /flywheel/<dag>/<run>/mlflow, /version    on to MLflow
    GET /flywheel/<dag>/<run>/manifest/<stage>    what a stage wrote last

Whoever may see the DAG's runs may see them; who is not logged in is sent to Airflow's login and back.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from dags.pages import approve
from flywheel import manifest, store
from flywheel.errors import FlywheelError
from flywheel.manifest import Manifest
from flywheel.settings import settings

PAGES = {"turn": ("summary", "page"), "report": ("gate", "page"), "card": ("dataset", "card"), "data": ("dataset", "report"), "feedback": ("curate", "report")}
# a report has texts of users and models in it: escaped, and beside that without any right
ALONE = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups allow-popups-to-escape-sandbox",
    "x-content-type-options": "nosniff",
}

app = FastAPI(title="Flywheel", docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(approve.router)


def may_see(dag_id: str, user: Annotated[object, Depends(get_user)]) -> None:
    """Raises 403 unless this user may see the DAG's runs."""
    details = DagDetails(id=dag_id)
    if not get_auth_manager().is_authorized_dag(method="GET", access_entity=DagAccessEntity.RUN, details=details, user=user):  # type: ignore[arg-type]
        raise HTTPException(403, "your role may not see this DAG's runs")


@app.exception_handler(HTTPException)
async def login_first(request: Request, error: HTTPException) -> Response:
    """Nobody is logged in: to the login, and back."""
    if error.status_code == 401 and request.method == "GET":
        return RedirectResponse(f"/auth/login?next={quote(str(request.url))}")
    return await http_exception_handler(request, error)


def found(dag_id: str, run_id: str, stage: str) -> Manifest:
    """A stage's manifest. Raises 404, with the reason, when it has not finished."""
    try:
        return manifest.read_for(manifest.run_dir(dag_id, run_id, settings().store), stage)
    except FlywheelError as error:
        raise HTTPException(404, f"{stage} of this run has not finished: {error.what}") from error


@app.get("/{dag_id}/{run_id}/manifest/{stage}", dependencies=[Depends(may_see)])
def manifest_page(dag_id: str, run_id: str, stage: str) -> Response:
    """What a stage wrote last, as JSON."""
    return Response(found(dag_id, run_id, stage).model_dump_json(indent=1), media_type="application/json")


@app.get("/{dag_id}/{run_id}/{page}", dependencies=[Depends(may_see)])
def run_page(dag_id: str, run_id: str, page: str) -> Response:
    """A page from the store, or the way to MLflow's."""
    if page in ("mlflow", "version"):
        registered = found(dag_id, run_id, "register").metrics
        if page == "version":
            return RedirectResponse(f"{settings().mlflow_url}/#/models/{quote(settings().model_name)}/versions/{registered['version']}")
        return RedirectResponse(str(registered["page"]).partition("/artifacts")[0])
    if page not in PAGES:
        raise HTTPException(404, f"there is no page {page}; there are {', '.join([*PAGES, 'mlflow', 'version'])}")
    stage, output = PAGES[page]
    artifact = found(dag_id, run_id, stage).outputs.get(output)
    if artifact is None:
        raise HTTPException(404, f"{stage} of this run made no {output}")
    try:
        data = store.read_bytes(artifact.location)
    except FileNotFoundError as error:
        raise HTTPException(404, f"{artifact.uri} is no longer in the store") from error
    if artifact.uri.endswith(".html"):
        return HTMLResponse(data, headers=ALONE)
    return PlainTextResponse(data, headers=ALONE)
