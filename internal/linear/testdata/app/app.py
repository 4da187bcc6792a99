from pheromone import function, main


@function
def note(ctx, objects):
    ctx.output(bytes(objects[0].data))


main()
