"""Whether TensorBoard reads from our event files what metrics.jsonl says; used by hand.

    python tests/golden/check_tensorboard.py STAGE …
    python tests/golden/check_tensorboard.py --bytes

Each STAGE is the directory of a training stage. Every number of every line has to be there once, at its step and as the
nearest f32, and nothing else. `--bytes` prints, in hexadecimal, the record that TensorBoard's own writer makes of the
event in the test of `trainer/src/tensorboard.rs`. Made with tensorboard 2.21.0.
"""
import io
import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(value, tag=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            if tag or key != "step":
                yield from scalars(inner, f"{tag}/{key}" if tag else key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield tag, value


def f32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def check(stage):
    expected = {}
    for line in (stage / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        found = dict(scalars(record))
        if found.get("seconds"):
            found["tokens_per_second"] = found["tokens"] / found["seconds"]
        for tag, value in found.items():
            expected.setdefault(tag, []).append((record["step"], f32(value)))
    events = EventAccumulator(str(stage), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    assert sorted(tags) == sorted(expected), set(tags) ^ set(expected)
    for tag in tags:
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        assert read == expected[tag], f"{tag}: {read[:3]} is not {expected[tag][:3]}"
        times = [event.wall_time for event in events.Scalars(tag)]
        assert times == sorted(times), tag
    print(f"{stage}: {len(tags)} tags, {sum(map(len, expected.values()))} values, all as in metrics.jsonl")


if sys.argv[1:] == ["--bytes"]:
    out = io.BytesIO()
    summary = Summary(value=[Summary.Value(tag="loss", simple_value=1.5)])
    RecordWriter(out).write(Event(wall_time=100.25, step=300, summary=summary).SerializeToString())
    print(out.getvalue().hex())
else:
    for stage in sys.argv[1:]:
        check(pathlib.Path(stage))
