from pheromone import function, main


@function
def greet(ctx, objects):
    """Runs for every object in the bucket names."""
    name = bytes(objects[0].data).decode()
    ctx.put("greetings", objects[0].key, f"Hello, {name}!".encode())


@function
def shout(ctx, objects):
    """Runs for every greeting; what it outputs is the result of the run."""
    ctx.output(bytes(objects[0].data).decode().upper().encode())


main()
