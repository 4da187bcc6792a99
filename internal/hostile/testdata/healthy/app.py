from pheromone import function, main


@function
def double(ctx, objects):
    ctx.put("doubled", "number", str(2 * int(objects[0].data)).encode())


@function
def answer(ctx, objects):
    ctx.output(objects[0].data)


main()
