"""The conformance functions in Python; main_test.go has the same in Go."""

import json
import time
from datetime import timedelta

from pheromone import NotFound, Permanent, function, main


@function
def echo(ctx, objects):
    for o in objects:
        ctx.put("out", o.key, o.data, content_type=o.content_type, meta=o.meta)


@function
def options(ctx, objects):
    ctx.put("out", "all", b"1", content_type="text/plain", meta={"region": "eu", "empty": ""}, output=True, deliver_after=1.5)
    ctx.put("out", b"2")
    ctx.send("other", b"3")
    ctx.output(b"4")
    ctx.join("sets", "ready", ["a", "b"])
    buffer = ctx.create("out", "made", 5)
    buffer.data[:] = b"hello"
    buffer.commit()


@function
def starts(ctx, objects):
    ctx.put("out", "first", b"1")
    ctx.start("child", b"2")
    ctx.start("child", "3", into="results", key="third", timeout=1.5, content_type="text/plain", meta={"region": "eu"})
    ctx.start("child", b"", into="results", timeout=timedelta(minutes=1))
    ctx.put("out", "last", b"5")


@function
def starts_large(ctx, objects):
    ctx.start("child", bytes(int(objects[0].text)))


@function
def deletions(ctx, objects):
    for o in objects:
        ctx.put("deleted" if o.deleted else "put", o.key, o.data)


@function
def puts(ctx, objects):
    for i in range(int(objects[0].text)):
        ctx.put("out", "k%d" % i, b"%d" % i)


@function
def read(ctx, objects):
    ctx.put("out", "before", b"x")
    try:
        o = ctx.get("in", objects[0].text)
        ctx.put("out", "found", o.data, content_type=o.content_type, meta=o.meta)
    except NotFound:
        ctx.put("out", "missing", b"")


kept = []


@function
def keeps(ctx, objects):
    kept.append(objects[0])


@function
def recalls(ctx, objects):
    assert kept[0].view == kept[0].data
    ctx.output(kept[0].data)


@function
def info(ctx, objects):
    o = objects[0]
    ctx.output(json.dumps({
        "invocation": ctx.invocation, "session": ctx.session, "attempt": ctx.attempt, "bucket": ctx.bucket, "trigger": ctx.trigger,
        "group": ctx.group, "window": ctx.window.isoformat().replace("+00:00", "Z"), "traceparent": ctx.traceparent, "function": ctx.function,
        "deadline": 0 < ctx.remaining < 60, "in": [o.bucket, o.key, o.session, o.content_type, o.meta.get("m", ""), str(o.size)],
    }))


@function
def fails(ctx, objects):
    ctx.put("out", "kept", b"x")
    raise ValueError("no luck")


@function
def permanent(ctx, objects):
    raise Permanent("never again")


@function
def crashes(ctx, objects):
    return {}["nothing here"]


@function(name="waits")
def wait_for_cancel(ctx, objects):
    ctx.put("out", "waiting", b"x")
    while not ctx.cancelled:
        time.sleep(0.005)
    raise RuntimeError("told to stop")


@function
def meets(ctx, objects):
    """Ends when the object "go" can be read: attempts that meet run at once."""
    ctx.put("out", "here", b"x")
    while True:
        try:
            ctx.get("in", "go")
            return
        except NotFound:
            time.sleep(0.005)


@function
def logs(ctx, objects):
    ctx.log("a line")
    print("printed")


@function
def oversize(ctx, objects):
    ctx.put("out", "big", bytes(int(objects[0].text)))


main()
