from flywheel.config import Train
from tasks.training import watch


def points(*losses):
    return [{"loss": x, "norm": 1.0} for x in losses]


def test_trouble_is_named():
    conf = Train()
    calm = points(*([3.0] * 10 + [2.0] * 30))
    assert watch.trouble(calm, 2.4, conf) == "" and watch.trouble([], 9.0, conf) == ""
    assert watch.trouble(calm, float("nan"), conf) == "the loss is nan"
    assert watch.trouble([], float("inf"), conf) == "the loss is inf"
    assert "the loss jumped to 11.00 from a mean of 2.00" in watch.trouble(calm, 11.0, conf)
    assert "the mean loss rose from 2.00 to 4.50" in watch.trouble([*calm, *points(*[4.5] * 20)], 4.5, conf)
    tiny = points(*[0.01] * 20)  # a preference's loss: five times nothing is nothing
    assert watch.trouble(tiny, 0.2, conf) == ""


def test_the_progress_line():
    meter = watch.Meter("cpu")
    meter.count(1000)
    line = meter.line(points(2.5), 10)
    assert all(part in line for part in ("step 1 of 10", "loss 2.500", "gradient 1.00", "tokens/s", "GB", "left"))
    assert meter.metrics()["peak_memory_gb"] > 0
