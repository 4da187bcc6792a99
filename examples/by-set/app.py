from pheromone import function, main


@function
def stitch(ctx, objects):
    """Runs once per session, when left and right are both there, in that order."""
    left, right = objects
    ctx.output(f"{left.text}|{right.text}\n")


main()
