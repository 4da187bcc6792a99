from pheromone import function, main


@function
def lines(ctx, objects):
    for i, line in enumerate(objects[0].text.splitlines()):
        ctx.put("lines", str(i), line)


@function(name="map")
def map_line(ctx, objects):
    """Puts every word under a key that begins with its group: word:line.position."""
    for i, word in enumerate(objects[0].text.split()):
        ctx.put("words", f"{word}:{objects[0].key}.{i}", "1")


@function(name="reduce")
def reduce_word(ctx, objects):
    """Runs once for each word, when every map is done."""
    ctx.output(f"{ctx.group}: {len(objects)}\n")


main()
