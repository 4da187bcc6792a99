import time

from pheromone import Permanent, function, main

PRICES = {"tea": 4, "milk": 2, "cake": 9}
RARE = {"caviar"}  # not worth a long wait


@function
def order(ctx, objects):
    """Starts a child session for each item, and names their results as a set."""
    items = objects[0].text.split()
    for item in items:
        ctx.start("price", item, into="prices", key=item, timeout=1 if item in RARE else 60)
    ctx.join("prices", "all-priced", items)


@function
def price(ctx, objects):
    """Runs in a session of its own, which may fail without failing the order."""
    item = objects[0].text
    while item in RARE and not ctx.cancelled:
        time.sleep(0.01)  # until the child's deadline
    if item not in PRICES:
        raise Permanent(f"there is no {item}")
    ctx.output(str(PRICES[item]))


@function
def bill(ctx, objects):
    """Runs once all children have ended, well or not, in the order of the set."""
    priced = [o for o in objects if o.meta["pheromone-status"] == "completed"]
    ctx.output(f"{' + '.join(o.key for o in priced)} = {sum(int(o.text) for o in priced)}\n")


@function
def apologise(ctx, objects):
    """Runs for each child that failed: the object is its result, as JSON."""
    error = objects[0].json()["error"]
    ctx.put("letters", objects[0].key, f"No {objects[0].key}: {error['message']}\n")


main()
