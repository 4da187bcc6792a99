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


def make_bytes(ctx, objects):
    size = int(bytes(objects[0].data))
    ctx.put("large", "x", bytes(range(251)) * (size // 251) + b"x" * (size % 251))


make_bytes.__name__ = "make"
function(make_bytes)


@function
def take(ctx, objects):
    ctx.output(str(len(objects[0].data)).encode())


main()
