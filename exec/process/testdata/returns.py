"""Functions that return what nobody takes."""

from pheromone import function, main


@function
def number(ctx, objects):
    return 7


@function
def later(ctx, objects):
    yield ctx.output(b"never")


@function
def nothing(ctx, objects):
    return None


main()
