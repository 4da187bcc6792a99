import json

from pheromone import function, main


@function
def ship(ctx, objects):
    ctx.output(f"ship {objects[0].key}\n")


@function
def review(ctx, objects):
    """Sees only what the condition of its trigger lets through: no if in here."""
    ctx.output(f"review {objects[0].key}: {json.loads(objects[0].text)['total']}\n")


main()
