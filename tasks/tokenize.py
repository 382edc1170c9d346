"""Turn training records into token ids with the one prompt renderer.

    python -m tasks.tokenize --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Output: `train`, an Arrow file with id, input_ids (prompt and answer), prompt_length and whether it came from feedback.
"""

from __future__ import annotations

from flywheel import base_model, prompt, stage
from flywheel.errors import DataError
from flywheel.manifest import Artifact
from flywheel.records import Example


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Another base model has another tokenizer."""
    return {"base": base_model.identity(ctx.config.model.base)}


def run(ctx: stage.Context) -> None:
    """Render, encode, and leave out or cut what is too long."""
    import pyarrow as pa

    conf, model = ctx.config.tokenize, ctx.config.model
    tokenizer = prompt.load_tokenizer(base_model.local_folder(model.base, ctx.cache))
    examples = [Example.model_validate_json(line) for line in ctx.fetch("clean.train").read_bytes().splitlines()]
    rows: list[dict[str, object]] = []
    too_long = 0
    tokens = 0
    for example in examples:
        question = prompt.encode(tokenizer, prompt.messages(example.instruction, example.input, example.history), model.prompt)
        ids = question + prompt.encode_answer(tokenizer, example.output)
        if len(ids) > model.max_length:
            too_long += 1
            if conf.truncate == "drop" or len(question) >= model.max_length:
                continue
            ids = ids[: model.max_length]
        tokens += len(ids)
        rows.append({"id": example.id, "input_ids": ids, "prompt_length": len(question), "feedback": bool(example.feedback_ids)})
        ctx.progress(f"  {len(rows)} of {len(examples)} examples")
    if not rows:
        raise DataError(f"every example is longer than {model.max_length} tokens", where="model.max_length", mend="Raise it, or set tokenize.truncate to cut.")
    schema = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "prompt_length": pa.int32(), "feedback": pa.bool_()})
    path = ctx.path("train.arrow")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    ctx.say(f"{len(rows)} examples, {tokens} tokens; {too_long} longer than {model.max_length} tokens ({conf.truncate})")
    ctx.output("train", path, len(rows))
    ctx.metrics |= {"examples": len(rows), "tokens": tokens, "too_long": too_long}


STAGE = stage.Stage("tokenize", run, needs=("clean",), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
