from pheromone import function, main


@function
def plan(ctx, objects):
    """Puts a reminder that counts for triggers only in a second. The function ends at once."""
    ctx.put("reminders", objects[0].key, f"{objects[0].key} is ready", deliver_after=1)


@function
def remind(ctx, objects):
    ctx.output(objects[0].text + "\n")


main()
