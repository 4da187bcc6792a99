import os
import time
import zlib

from pheromone import function, main


def chained(i):
    def run(ctx, objects):
        if i == 9:
            ctx.output(objects[0].data)
        else:
            ctx.put(f"b{i + 1}", "x", objects[0].data)
    run.__name__ = f"f{i}"
    return run


for i in range(10):
    function(chained(i))


@function
def fan(ctx, objects):
    for i in range(16):
        ctx.put("wide", f"w{i}", objects[0].data)


@function
def noop(ctx, objects):
    ctx.put("joined", objects[0].key, objects[0].data)


@function
def gather(ctx, objects):
    ctx.output(str(len(objects)).encode())


# Nothing of it repeats within a chunk of the store: it does not compress.
NOISE = os.urandom(1 << 20)


def make_bytes(ctx, objects):
    size = int(bytes(objects[0].data))
    ctx.put("large", "x", NOISE * (size // len(NOISE)) + NOISE[:size % len(NOISE)])


make_bytes.__name__ = "make"
function(make_bytes)


@function
def take(ctx, objects):
    ctx.output(str(zlib.crc32(objects[0].view)).encode())


@function
def hop(ctx, objects):
    left = int(bytes(objects[0].data))
    if left <= 1:
        ctx.output(b"there")
    else:
        ctx.put("loop", str(left - 1), str(left - 1).encode())


@function
def spread(ctx, objects):
    keys = [f"s{i}" for i in range(int(bytes(objects[0].data)))]
    for key in keys:
        ctx.put("naps", key, b"")
    ctx.join("rested", "all", keys)


@function
def nap(ctx, objects):
    time.sleep(1)
    ctx.put("rested", objects[0].key, b"")


@function
def rise(ctx, objects):
    ctx.output(str(len(objects)).encode())


main()
