import time

from pheromone import function, main


@function
def split(ctx, objects):
    for key in "abc":
        ctx.put("parts", key, objects[0].data)


@function
def work(ctx, objects):
    """Part b hangs at its first attempt. Nothing has failed, so no retry would help."""
    if objects[0].key == "b" and ctx.attempt == 1:
        while not ctx.cancelled:
            time.sleep(0.01)
        return
    ctx.put("results", objects[0].key, f"{objects[0].key} at attempt {ctx.attempt}")


@function
def join(ctx, objects):
    ctx.output(", ".join(o.text for o in objects) + "\n")


main()
