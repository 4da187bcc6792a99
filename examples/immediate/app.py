from pheromone import function, main


@function
def shout(ctx, objects):
    """Runs for every object in the bucket notes, with that object."""
    ctx.output(objects[0].text.upper() + "\n")


main()
