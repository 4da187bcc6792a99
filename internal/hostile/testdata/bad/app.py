from pheromone import Permanent, function, main


@function
def echo(ctx, objects):
    ctx.output(objects[0].data)


@function
def fails(ctx, objects):
    raise Permanent("this function always fails")


@function
def sleeps(ctx, objects):
    ctx.put("plain", "started", b"")
    while not ctx.cancelled and ctx.remaining > 0:
        try:
            ctx.get("plain", "never")
        except KeyError:
            pass


main()
