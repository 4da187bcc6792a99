"""Counts the words of a document: split it, count the parts side by side, add the counts up."""

import json
import re
from collections import Counter

from pheromone import function, main

PARTS = 32


@function
def split(ctx, objects):
    """Cuts a document at line ends, and names the counts that merge has to wait for."""
    lines = objects[0].data.splitlines(keepends=True)
    size = max(1, -(-len(lines) // PARTS))
    keys = []
    for start in range(0, len(lines), size):
        keys.append(f"part-{len(keys):02}")
        ctx.put("parts", keys[-1], b"".join(lines[start : start + size]))
    ctx.join("counts", "all-counted", keys)


@function
def count(ctx, objects):
    """Tallies one part. A word is a run of the letters a to z; capitals count as small ones."""
    words = re.findall(rb"[a-z]+", objects[0].data.lower())
    tally = Counter(word.decode() for word in words)
    ctx.put("counts", objects[0].key, json.dumps(tally), content_type="application/json")


@function
def merge(ctx, objects):
    """Runs once, with the counts of all parts."""
    total = Counter()
    for tally in objects:
        total.update(tally.json())
    top = sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[:10]
    result = {"total": sum(total.values()), "top": [{"word": word, "count": n} for word, n in top]}
    ctx.output(json.dumps(result, indent=2) + "\n", content_type="application/json")


main()
