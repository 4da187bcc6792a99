from pheromone import function, main


@function
def tally(ctx, objects):
    """Runs when a window of one second closes, with the clicks that fell into it."""
    ctx.output(f"clicks: {len(objects)}\n")


main()
