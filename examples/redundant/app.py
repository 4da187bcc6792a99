import time

from pheromone import function, main


@function
def ask(ctx, objects):
    """Asks the same thing three times."""
    for who in ("ada", "bob", "slowpoke"):
        ctx.put("requests", who, objects[0].data)


@function
def answer(ctx, objects):
    """Answers at once, but for the slowpoke, who goes on until nobody wants the answer."""
    who = objects[0].key
    while who == "slowpoke" and not ctx.cancelled:
        time.sleep(0.01)
    if not ctx.cancelled:
        ctx.put("answers", who, "yes")


@function
def decide(ctx, objects):
    """Runs once, with the first two answers. The third answer is cancelled."""
    ctx.output(" and ".join(sorted(o.key for o in objects)) + " said yes\n")


main()
