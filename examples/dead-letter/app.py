from pheromone import Permanent, function, main


@function
def charge(ctx, objects):
    card = objects[0].text
    if card == "stolen":
        raise Permanent("the card is stolen")  # another attempt would not help
    if card == "shaky" and ctx.attempt < 3:
        raise OSError("the bank does not answer")  # tried again after a wait
    if card == "broken":
        raise OSError("the bank is gone")  # fails three times, then is given up
    ctx.output(f"charged {card} at attempt {ctx.attempt}\n")


@function
def apologise(ctx, objects):
    """Runs for what charge gave up: the failure itself is the object."""
    failure = objects[0].json()
    ctx.output(f"sorry: {failure['message']} ({failure['kind']}, attempts: {failure['attempts']})\n")


main()
