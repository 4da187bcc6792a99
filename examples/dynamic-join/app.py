from pheromone import function, main


@function
def scatter(ctx, objects):
    """Knows only now how many numbers there are, and names the set to wait for."""
    numbers = objects[0].text.split()
    keys = [f"n{i}" for i in range(len(numbers))]
    for key, number in zip(keys, numbers):
        ctx.put("numbers", key, number)
    ctx.join("squares", "all-squared", keys)


@function
def square(ctx, objects):
    ctx.put("squares", objects[0].key, str(int(objects[0].text) ** 2))


@function
def gather(ctx, objects):
    """Runs once all squares are there, with them in the order in which scatter named them."""
    squares = [o.text for o in objects]
    ctx.output(f"{' + '.join(squares)} = {sum(map(int, squares))}\n")


main()
