"""The Grafana dashboards, as code: one table a dashboard; what Grafana imports is written to grafana/.

    python -m infra.monitoring.dashboards          writes infra/monitoring/grafana/*.json

A row is (title, unit, [(PromQL, legend), …], what it tells). `infra.monitoring.check` asks a live Prometheus every query.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).parent / "grafana"
Row = tuple[str, str, list[tuple[str, str]], str]
ASK = 'path=~"/v1/(generate|chat/completions)"'

DASHBOARDS: dict[str, list[Row]] = {
    "serving": [
        ("Requests", "reqps", [('sum by (path) (rate(flywheel_requests_total{path=~"/v1/.+"}[5m]))', "{{path}}")], "Requests a second to the API."),
        ("Not available", "percentunit", [("flywheel:unavailable:ratio_rate5m", "5 minutes"), ("flywheel:unavailable:ratio_rate1h", "1 hour"),
            ("flywheel:unavailable:ratio_rate6h", "6 hours")], "Share answered with a 5xx; the objective allows 0.5 %."),
        ("Error budget left", "percentunit", [("1 - flywheel:unavailable:ratio_rate3d / 0.005", "availability"), ("1 - flywheel:slow:ratio_rate3d / 0.05", "latency")],
            "Of what three days may use; below zero, more was used than allowed."),
        ("Time to the whole answer", "s", [(f"histogram_quantile({q}, sum by (le) (rate(flywheel_request_seconds_bucket{{{ASK}}}[5m])))", f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)],
            "95 % of answers should be whole within 10 s."),
        ("Answers by version", "reqps", [("sum by (version) (rate(flywheel_answers_total[5m]))", "version {{version}}")], "A rollout shows as one line taking over from another."),
        ("Version", "none", [("flywheel_model_version", "{{instance}} answers with"), ("flywheel_desired_model_version", "{{instance}} should")], "0 is the base model."),
        ("Failed looks at the registry", "none", [("sum by (cause) (increase(flywheel_reconcile_failures_total[10m]))", "{{cause}}")],
            "load: a version that cannot be loaded; registry: no answer from MLflow."),
        ("Tokens", "none", [("sum by (direction) (rate(flywheel_tokens_total[5m]))", "{{direction}} tokens/s")], "Read and written, a second."),
    ],
    "flywheel": [
        ("Time since", "s", [("time() - max(flywheel_turn_finished_timestamp_seconds)", "the last turn ended"),
            ("time() - max(flywheel_champion_check_timestamp_seconds)", "the last champion check"), ("time() - max(flywheel_champion_created_timestamp_seconds)", "the champion was made")],
            "Three nights without a check raise an alert."),
        ("Verdict of the last turn", "none", [("max by (verdict) (flywheel_turn_verdict)", "{{verdict}}")], "1 for the verdict that was given."),
        ("Registered versions", "none", [("max by (verdict) (flywheel_versions)", "{{verdict}}"), ("max(flywheel_champion_version)", "champion's number")], "By the gate's verdict."),
        ("Last comparison", "none", [('max by (figure) (flywheel_evaluation_score{figure=~"log_loss.+"})', "{{figure}}")], "Champion and challenger on the same frozen examples; lower is better."),
        ("Stage durations", "s", [("max by (stage) (flywheel_stage_wall_seconds)", "{{stage}}")], "Wall time of each stage's last run; a cache hit takes a moment."),
        ("Stages by how they ended", "none", [("sum by (task_id, state) (increase(airflow_ti_finish_total[1h]))", "{{task_id}} {{state}}")], "In the last hour, from Airflow."),
        ("Training loss", "none", [("max(flywheel_train_final_loss)", "nats a token")], "At the end of the last training."),
        ("Scheduler heartbeats", "none", [("sum(increase(airflow_scheduler_heartbeat_total[5m]))", "in 5 minutes")], "None for five minutes raises an alert."),
        ("DAG files that cannot be read", "none", [("max(airflow_dag_processing_import_errors)", "files")], "Any raises an alert."),
        ("Sources of the exporter", "none", [("max by (source) (flywheel_exporter_up)", "{{source}}")], "0: its figures are missing, and alerts on them are silent."),
    ],
    "feedback": [
        ("Feedback", "none", [("sum by (thumb) (increase(flywheel_feedback_total[1h]))", "{{thumb}}"), ("sum(increase(flywheel_corrections_total[1h]))", "corrections")], "Stored in the last hour."),
        ("Answers that were rated up", "percentunit", [('sum(flywheel_feedback_total{thumb="up"}) / sum(flywheel_feedback_total{thumb=~"up|down"})', "of the rated")],
            "Since serving started."),
        ("Records", "none", [("max by (state) (flywheel_feedback_records)", "{{state}}"), ("max(flywheel_feedback_usable_waiting)", "waiting and usable")], "In the ledger."),
        ("Open batches", "none", [("max(flywheel_feedback_open_batches)", "claimed, not finished")], "One that stays was left by a curation that died; the next one takes it up."),
        ("Last batch", "none", [("max by (went) (flywheel_batch_records)", "{{went}}")], "Where its records went."),
        ("Data set", "none", [("max by (part) (flywheel_dataset_records)", "{{part}}")], "Records in each part after the last clean."),
        ("Quarantine", "percentunit", [("max by (stage) (flywheel_quarantine_ratio)", "{{stage}}")], "Share of records that the last run rejected."),
        ("Drift", "none", [("max by (measure) (flywheel_data_drift)", "{{measure}}"), ("max by (measure) (flywheel_data_drift_limit)", "{{measure}}, limit")],
            "Against the last accepted data set, so from the second turn on."),
    ],
    "cost": [
        ("Spent this week", "none", [("sum(flywheel_week_money)", "spent"), ("max(flywheel_week_budget_money)", "budget")], "An ISO week, UTC; no budget shows as infinity."),
        ("Share of the week's budget", "percentunit", [("flywheel:week_budget:ratio", "{{budget}}")], "At 100 % training stops until Monday."),
        ("Spent by stage", "none", [("max by (stage) (flywheel_week_money)", "{{stage}}")], "This week; failed attempts count too."),
        ("CPU time by stage", "s", [("max by (stage) (flywheel_week_cpu_seconds)", "{{stage}}")], "This week."),
        ("GPU time by stage", "s", [("max by (stage) (flywheel_week_gpu_seconds)", "{{stage}}")], "This week; 0 without a GPU."),
        ("Cost of a turn", "none", [("max(flywheel_turn_money)", "the last turn"), ("max(flywheel_champion_money)", "the champion's")], "Every stage together."),
    ],
    "capacity": [
        ("Requests at the model", "none", [("sum(flywheel_queued_requests)", "waiting"), ("sum(flywheel_running_requests)", "being decoded")], "More waiting than decoded for long: add a replica."),
        ("Wait for a batch", "s", [("histogram_quantile(0.95, sum by (le) (rate(flywheel_queue_seconds_bucket[5m])))", "p95")], "What an answer loses before decoding begins."),
        ("Requests decoded together", "none", [("rate(flywheel_batch_size_sum[5m]) / rate(flywheel_batch_size_count[5m])", "{{instance}}")], "16 at most."),
        ("Processors in use", "none", [('rate(process_cpu_seconds_total{job=~"serving|exporter"}[5m])', "{{job}}")], "Cores."),
        ("Memory", "bytes", [('process_resident_memory_bytes{job=~"serving|exporter|prometheus"}', "{{job}}")], "Resident."),
        ("Airflow's slots", "none", [("sum(airflow_pool_open_slots)", "pool, open"), ("sum(airflow_executor_open_slots)", "executor, open"),
            ("sum(airflow_executor_running_tasks)", "running"), ("sum(airflow_executor_queued_tasks)", "queued")], "No open slot and tasks queued: raise the parallelism."),
        ("Room on the disk", "percentunit", [("flywheel_disk_free_bytes / flywheel_disk_bytes", "{{place}}")], "Below a tenth raises an alert."),
        ("Size of the store", "bytes", [("max(flywheel_store_bytes)", "store")], "When it is a folder; a bucket tells its own size."),
        ("Training speed", "none", [('max(flywheel_train_tokens) / max(flywheel_stage_wall_seconds{stage="train"})', "tokens/s")], "Of the last training, loading the model included."),
    ],
}  # fmt: skip


def build(name: str, rows: list[Row]) -> str:
    """One dashboard as the JSON that Grafana imports; it asks for the data source when it is imported."""
    source = DataSourceRef(type_val="prometheus", uid="${datasource}")
    board = dashboard.Dashboard(f"Flywheel: {name}").uid(f"flywheel-{name}").tags(["flywheel"]).refresh("30s").time("now-6h", "now").readonly()
    board.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for title, unit, queries, tells in rows:
        panel = timeseries.Panel().title(title).description(tells).unit(unit).datasource(source).span(8).height(8)
        for i, (query, legend) in enumerate(queries):
            panel.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + i)))
        board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


if __name__ == "__main__":
    for name, rows in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(build(name, rows))
