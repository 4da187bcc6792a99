"""Functions that tell about their process. What LOADS names is done while the program is loaded."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import uuid

from pheromone import NotFound, function, main

loads = os.environ.get("LOADS", "")
if loads == "thread":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
elif loads == "file":
    kept = open(__file__)
elif loads == "program":
    started = subprocess.Popen(["sleep", "1000"])
elif loads == "print":
    print("loading")
elif loads == "handler":
    signal.signal(signal.SIGCHLD, lambda number, frame: None)

loaded_in = os.getpid()


@function
def tell(ctx, objects):
    """Tells about the process; with an object, once there is one named "go"."""
    while objects:
        try:
            ctx.get("in", "go")
            break
        except NotFound:
            ctx.put("out", "waiting", b"")
            time.sleep(0.005)
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    memory, more = 0, []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue  # of the folder itself
        if target.startswith("/memfd:pheromone-"):
            memory += 1  # kept by what is mapped
        elif int(name) > 3:
            more.append(int(name))
    core = [line.split()[4] for line in open("/proc/self/limits") if line.startswith("Max core")]
    ctx.output(
        json.dumps(
            {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "group": os.getpgid(0),
                "loaded_in": loaded_in,
                "random": [random.random(), str(uuid.uuid4())],
                "home": os.environ["HOME"],
                "tmp": os.environ["TMPDIR"],
                "executor": os.environ["PHEROMONE_EXECUTOR"],
                "folder": os.path.isdir(os.environ["PHEROMONE_SCRATCH"]),
                "privileges": status["NoNewPrivs"].strip(),
                "core": core,
                "threads": int(status["Threads"]),
                "descriptors": [os.readlink("/proc/self/fd/%d" % n).split(":")[0] for n in range(4)],
                "more": more,
                "memory": memory,
                "inheritable": [n for n in range(4) if os.get_inheritable(n)],
                "blocking": [os.get_blocking(n) for n in range(4)],
                "on_child": callable(signal.getsignal(signal.SIGCHLD)),
            }
        )
    )


@function
def echo(ctx, objects):
    for o in objects:
        ctx.put("out", o.key, o.data)


@function
def exit(ctx, objects):
    print("last words")
    os._exit(3)


@function
def abort(ctx, objects):
    signal.raise_signal(signal.SIGSEGV)


@function
def orphans(ctx, objects):
    """Ends the parent, and with it this process."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


@function
def deaf(ctx, objects):
    """Goes on forever and lets no other thread run: nothing in the process sees the end of its connection."""
    ctx.put("out", "deaf", b"")
    try:
        ctx.get("in", "nothing")
    except NotFound:
        re.match("(a+)+b", "a" * 100)


@function
def child(ctx, objects):
    """Leaves a child that is not in its process group."""
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.closerange(0, 256)
        time.sleep(1000)
        os._exit(0)
    ctx.output(json.dumps([left.pid, pid]))


main(concurrency=1, fork=loads != "told")
