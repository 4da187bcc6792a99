import os
import signal
import struct
import subprocess
import sys
import time

from pheromone import function, main


@function
def exits(ctx, objects):
    print("going down", file=sys.stderr)
    sys.stderr.flush()
    os.write(2, b"last words\n")
    os._exit(3)


@function
def segfaults(ctx, objects):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


@function
def kills_itself(ctx, objects):
    os.killpg(0, signal.SIGKILL)


@function
def hangs(ctx, objects):
    while True:
        time.sleep(60)


@function
def stubborn(ctx, objects):
    ctx.put("out", "started", b"")
    while True:
        time.sleep(60)


@function
def floods(ctx, objects):
    line = b"x" * 999 + b"\n"
    for _ in range(100):
        data = memoryview(line * 1000)
        while data:
            data = data[os.write(1, data):]
    ctx.output(b"done")


@function
def large(ctx, objects):
    ctx.output(bytes(64 << 20))


@function
def large_by_force(ctx, objects):
    ctx.max_object_bytes = 1 << 40
    ctx.output(bytes(64 << 20))


@function
def huge_by_force(ctx, objects):
    ctx.max_object_bytes = 1 << 40
    ctx.output(bytes(300 << 20))


@function
def frames_on_stdout(ctx, objects):
    text = b'{"kind":"permanent","message":"forged"}'
    for call in range(200):
        os.write(1, struct.pack("<IBBHQII", len(text), 9, 0, 0, call, 0, 0) + text)
    ctx.output(b"done")


@function
def garbage(ctx, objects):
    os.write(3, b"\xde\xad\xbe\xef" * 1000)
    time.sleep(60)


@function
def closes(ctx, objects):
    os.close(3)
    time.sleep(60)


@function
def forks(ctx, objects):
    pids = []
    for own_session in (False, True):
        pids.append(subprocess.Popen(["sleep", "1000"], start_new_session=own_session).pid)
    ctx.output(" ".join(map(str, pids)).encode())


@function
def descriptors(ctx, objects):
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in taken:
            os.close(fd)


@function
def recursion(ctx, objects):
    recursion(ctx, objects)


@function
def many(ctx, objects):
    for i in range(100_000):
        ctx.put("out", "tiny-%06d" % i, b"")
    ctx.output(b"done")


@function
def nowhere(ctx, objects):
    ctx.put("nowhere", "k", b"")


@function
def to_nobody(ctx, objects):
    ctx.send("nobody", b"")


@function
def joins_nothing(ctx, objects):
    ctx.join("out", "no-such-trigger", ["a"])


@function
def starts_nobody(ctx, objects):
    ctx.start("nobody", b"")


@function
def starts_into_nowhere(ctx, objects):
    ctx.start("floods", b"", into="nowhere")


@function
def starts_large(ctx, objects):
    ctx.max_object_bytes = 1 << 40
    ctx.start("floods", bytes(64 << 20))


@function
def starts_bad_text(ctx, objects):
    fields = struct.pack("<BBHB3xQQ", 10, 0, 20, 0, 0, 0)
    name = b"\xff\x00../floods"
    ctx._add(14, 0, fields + struct.pack("<BBH", 16, 0, len(name)) + name, b"")


@function
def starts_for_ever(ctx, objects):
    ctx.start("floods", b"", timeout=10**12)


@function
def contradicts(ctx, objects):
    ctx.put("out", "same", b"other")


@function
def verbose(ctx, objects):
    raise ValueError("\u20ac" * (20 << 20))


def forced(ctx, bucket, key):
    fields = struct.pack("<BBHB3xQQ", 10, 0, 20, 0, 0, 0)
    for tag, value in ((5, bucket), (11, key)):
        fields += struct.pack("<BBH", tag, 0, len(value)) + value
    ctx._add(3, 0, fields, b"")


@function
def bad_key(ctx, objects):
    forced(ctx, b"out", b"\xff\xfe\x00")


@function
def bad_bucket(ctx, objects):
    forced(ctx, b"\xff\x00../out", b"k")


@function
def bad_text(ctx, objects):
    os.write(1, b"\xff\xfe\x00 \x1b[31mred\n")
    raise ValueError("\ud800 \x00 \x1b[31mred")


@function
def memory(ctx, objects):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    hold = []
    while True:
        hold.append(bytearray(64 << 20))


if "stubborn" in sys.argv:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
main()
