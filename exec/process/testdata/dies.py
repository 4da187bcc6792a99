"""Functions that say something and take their process down."""

import ctypes
import os
import subprocess
import sys

from pheromone import function, main


@function
def segfault(ctx, objects):
    print("last words", flush=True)
    ctypes.string_at(0)


@function
def stdout(ctx, objects):
    print("last words")
    os._exit(7)


@function
def stderr(ctx, objects):
    print("not these words")
    print("last words", file=sys.stderr)
    os._exit(7)


@function
def log(ctx, objects):
    ctx.log("last words")
    os._exit(7)


@function
def unfinished(ctx, objects):
    print("last words", end="", flush=True)
    os._exit(7)


@function
def pipe(ctx, objects):
    os.write(1, b"last words\n")
    os._exit(7)


@function
def survived(ctx, objects):
    """Leaves a child that is not in its process group and holds its pipes open."""
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("last words")
    os._exit(7)


main()
