//! Spans in the trace event format of Chrome, which <https://ui.perfetto.dev> shows
//! (<https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>).

use std::time::Duration;

use serde_json::{Value, json};

use super::recording::{Event, Kind};

/// Complete events (`ph` `X`), in microseconds since the stage began.
pub fn to_json(events: &[Event]) -> serde_json::Result<Vec<u8>> {
    let events: Vec<Value> = events.iter().map(event).collect();
    serde_json::to_vec(&json!({ "traceEvents": events, "displayTimeUnit": "ms" }))
}

fn event(event: &Event) -> Value {
    let kind = match event.kind {
        Kind::Step => "step",
        Kind::Phase => "phase",
        Kind::Operation => "operation",
    };
    let mut object = json!({
        "name": event.name,
        "cat": kind,
        "ph": "X",
        "ts": microseconds(event.start),
        "dur": microseconds(event.duration),
        "pid": 1,
        "tid": 1,
    });
    if event.kind == Kind::Operation {
        object["args"] = json!({ "bytes": event.cost.bytes, "flops": event.cost.flops });
    }
    object
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
