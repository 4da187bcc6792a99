from pheromone import function, main


@function
def add(ctx, objects):
    """Runs with three readings in the order they came, or with fewer after a second."""
    values = [int(o.text) for o in objects]
    ctx.output(f"{' + '.join(map(str, values))} = {sum(values)}\n")


main()
