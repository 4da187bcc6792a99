import json

from pheromone import function, main


def step(ctx, objects, bucket):
    ctx.put(bucket, objects[0].key, str(int(bytes(objects[0].data)) + 1).encode())


@function
def first(ctx, objects):
    step(ctx, objects, "two")


@function
def second(ctx, objects):
    step(ctx, objects, "three")


@function
def third(ctx, objects):
    value = str(int(bytes(objects[0].data)) + 1).encode()
    ctx.put("finished", objects[0].key, value)
    ctx.put("ticks", objects[0].key, value)
    ctx.output(value)


def keys_of(objects):
    return json.dumps(sorted(o.key for o in objects)).encode()


@function
def tally(ctx, objects):
    ctx.output(keys_of(objects))


@function
def window(ctx, objects):
    ctx.output(keys_of(objects))


@function
def split(ctx, objects):
    words = bytes(objects[0].data).decode().split()
    size = max(1, len(words) // 4)
    keys = []
    for i in range(0, len(words), size):
        key = f"part-{i:04d}"
        ctx.put("parts", key, " ".join(words[i:i + size]).encode())
        keys.append(key)
    ctx.join("counts", "all-counted", keys)


@function
def count(ctx, objects):
    tally = {}
    for word in bytes(objects[0].data).decode().split():
        tally[word] = tally.get(word, 0) + 1
    ctx.put("counts", objects[0].key, json.dumps(tally).encode())


@function
def merge(ctx, objects):
    total = {}
    for o in objects:
        for word, n in json.loads(bytes(o.data)).items():
            total[word] = total.get(word, 0) + n
    ctx.output(json.dumps(total, sort_keys=True).encode())


@function
def start(ctx, objects):
    for lane in range(4):
        ctx.put("lanes", f"lane-{lane}", objects[0].data)


@function
def run(ctx, objects):
    ctx.put("laps", objects[0].key, objects[0].data)


@function
def podium(ctx, objects):
    ctx.output(keys_of(objects))


main()
