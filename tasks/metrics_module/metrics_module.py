"""The flywheel's metrics for Hugging Face `evaluate`, from this folder and without a hub.

evaluate.load("tasks/metrics_module").compute(predictions=["It is 4."], references=["It is 4."])
"""

import datasets
import evaluate

from tasks import metrics


class Flywheel(evaluate.Metric):
    """Means over the answers of what `tasks.metrics.of_answer` measures, and corpus BLEU and chrF with their signatures."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions and references: lists of texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | str]:
        rows = [metrics.of_answer(answer, reference) for answer, reference in zip(predictions, references, strict=True)]
        means = {name: sum(row[name] or 0.0 for row in rows) / len(rows) for name in rows[0]}
        corpus = {f"corpus_{name}": value for name, value in metrics.corpus(predictions, references).items()}
        return means | corpus
