from pheromone import function, main


@function
def page(ctx, objects):
    """Runs for the keys fire and flood."""
    ctx.output(f"paged somebody: {objects[0].key}\n")


@function
def file(ctx, objects):
    """Runs for every key that the glob matches."""
    ctx.output(f"filed {objects[0].key}\n")


main()
