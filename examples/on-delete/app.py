from pheromone import function, main


@function
def release(ctx, objects):
    """Runs when a lease is given up or its time is over, with what the lease said."""
    lease = objects[0]
    ctx.output(f"{lease.key} is free again, {lease.text} had it\n")


main()
