"""Functions for Pheromone in Python: one file, standard library only.

    from pheromone import function, main

    @function
    def count(ctx, objects):
        ctx.put("counts", objects[0].key, tally(objects[0].data))

    main()

A function gets a context and the objects that made its trigger fire. It may run
more than once for one invocation, and what it puts counts once: ctx.invocation
is the same on every attempt, as an idempotency key for effects elsewhere. An
exception fails the attempt, which is tried again by the function's retry policy;
`raise Permanent("...")` says that there is no use in that.

What is printed while a function runs goes to the function's log. What it returns
is ignored: use ctx.output.

The file speaks version 1 of the executor protocol (docs/executor-protocol.md).
"""

import io
import json
import os
import socket
import struct
import sys
import threading
import time
import weakref
from datetime import datetime, timedelta, timezone

__all__ = ["function", "main", "Permanent", "NotFound", "Refused", "Cancelled", "Context", "Object"]

_HEADER = struct.Struct("<IBBHQII")  # body, type, flags, reserved, id, fields, arg
_FIELD = struct.Struct("<BBH")
_NUMBER = struct.Struct("<BBHQ")
_DESCRIPTOR = struct.Struct("<B3xQQ")
_OBJECT = struct.Struct("<BBHB3xQQ")
_U64 = struct.Struct("<Q")

_HELLO, _INVOKE, _PUT, _JOIN, _GET, _GET_REPLY, _LOG, _RESULT, _ERROR, _CANCEL, _PING, _PONG, _GOODBYE, _START, _RELEASE = range(1, 16)
_FORK, _REAP = 16, 17  # between the node and the process that executors are forked from

_SESSION, _NUMBER_TAG, _ATTEMPT, _TIMEOUT, _BUCKET, _TRIGGER, _GROUP, _WINDOW, _TRACEPARENT = range(1, 10)
_OBJECT_TAG, _KEY, _CONTENT_TYPE, _META, _DELIVER_AFTER, _MAX_OBJECT, _FUNCTION, _DELETED = range(10, 18)

_INLINE, _INPUT, _OUTPUT = range(3)  # where the bytes of an object are

_BUFFER_BYTES = 64 << 10
_SHARED_BYTES = 64 << 10  # the size from which on objects go through memory
_PAGE = 4096
_ZEROS = bytes(1 << 20)
_FLUSH_BYTES = 1 << 20  # what is collected before it leaves unasked
_FIELD_BYTES = 16 << 20
_LOG_BYTES = 8 << 10
_DETAIL_BYTES = 16 << 10
_CONTENT_TYPE_BYTES = 256
_META_FIELDS = 64
_META_BYTES = 16 << 10  # of all names and values of an object together
_MIN_SESSION = 10**6  # how long a child session may run, nanoseconds
_MAX_SESSION = 365 * 24 * 3600 * 10**9
_TICK = 0.001  # how long a put may wait for company, seconds
_SLOW = 0.0005  # a function that takes longer on average gets a thread at once
_MISSING = object()


class Permanent(Exception):
    """Fails the invocation: another attempt would not help."""


class NotFound(KeyError):
    """What ctx.get raises for an object that is not there."""

    def __str__(self):
        return self.args[0] if self.args else ""


class Refused(ValueError):
    """What was put or named breaks a limit or a rule."""


class Cancelled(Exception):
    """The attempt was cancelled or is past its deadline: its result counts no more."""


def _ended():
    return RuntimeError("the attempt has ended: its function returned")


def _cancelled():
    return Cancelled("the attempt was cancelled: its result counts no more")


_functions = {}


def function(f=None, *, name=None):
    """Registers a function: @function, @function("name") or @function(name="name")."""
    if isinstance(f, str):
        f, name = None, f

    def register(f):
        known = name or f.__name__
        if known in _functions:
            raise ValueError("function %r is registered twice" % known)
        _functions[known] = f
        return f

    return register if f is None else register(f)


class Object:
    """An object passed to a function, or read by it.

    view is a memoryview of the data, without a copy. It is there until the function
    returns, and can't be written to; data is a copy of it that stays.
    """

    __slots__ = ("bucket", "key", "session", "content_type", "meta", "deleted", "view", "_data", "__weakref__")

    def __init__(self, view, bucket="", session="", *, key="", content_type="", meta=None, deleted=False):
        self.view = view
        self.bucket = bucket
        self.session = session
        self.key = key
        self.content_type = content_type
        self.meta = {} if meta is None else meta
        self.deleted = deleted  # it stands for the deletion of a key-value object, with the bytes that this had
        self._data = None

    @property
    def data(self):
        """The data as bytes."""
        if self._data is None:
            copy = self._of_view(bytes)
            # Another thread may have ended the attempt since: what it left stays, the
            # memory may have been used anew before it was copied here.
            if self._data is None:
                self._data = copy
        return self._data

    def _of_view(self, f):
        """f of the view, or of the copy that another thread has put in its place meanwhile."""
        try:
            return f(self.view)
        except ValueError:
            if self._data is None:
                raise
            return f(self._data)

    def _leave(self):
        """Makes the object last: the memory behind its view is about to be used anew."""
        view, self.view = self.view, memoryview(self.data)
        try:
            view.release()
        except BufferError:
            pass  # something else was made of it, and is no longer to be used

    @property
    def size(self):
        return self._of_view(len)

    @property
    def text(self):
        """The data decoded from UTF-8."""
        return self.data.decode()

    def json(self):
        """The data decoded from JSON."""
        return json.loads(self.data)

    def __repr__(self):
        return "Object(%s/%s, %d bytes)" % (self.bucket, self.key, self.size)


class Buffer:
    """An object that is written in place: fill .data, then commit() before the function returns.

    A large one is in memory that the node reads: it is not copied on the way there.
    """

    def __init__(self, ctx, bucket, key, size, options):
        self._put = [(ctx, bucket, key, options)]
        self._part = ctx._create(size)
        self.data = memoryview(bytearray(size)) if self._part is None else self._part.view

    def commit(self):
        try:
            ctx, bucket, key, options = self._put.pop()  # by one thread alone
        except IndexError:
            raise ValueError("the buffer is committed already") from None
        ctx.put(bucket, key, self.data if self._part is None else self._part, **options)
        self.data = None


class Context:
    """An attempt's view of the platform.

    Threads that a function starts may call its methods, until the function returns.
    """

    def __init__(self, connection, call):
        self._connection = connection
        self._call = call
        # Guards _ended, _inputs and _created: threads of the function may outlive it.
        self._lock = threading.Lock()
        self._ended = False
        self._cancelled = False
        self._line = {}  # what was printed of a line that is not complete
        self._objects = None  # what the function is given
        self._inputs = []  # references to objects whose bytes are in memory that the node writes
        self._created = set()  # parts of the outputs that were not sent
        self.function = ""
        self.session = ""
        self.number = 0
        self.attempt = 0
        self.bucket = ""
        self.trigger = ""
        self.group = ""
        self.traceparent = ""
        self.max_object_bytes = connection.max_object
        self._window = 0
        self._timeout = 0
        self._began = time.monotonic()

    @property
    def invocation(self):
        """The id of the invocation, the same on every attempt."""
        return "%s.%d" % (self.session, self.number)

    @property
    def window(self):
        """When the window of a by_time firing ended; None for other firings."""
        if not self._window:
            return None
        return datetime.fromtimestamp(self._window / 1e9, timezone.utc)

    @property
    def remaining(self):
        """Seconds until the deadline."""
        return self._timeout / 1e9 - (time.monotonic() - self._began)

    @property
    def deadline(self):
        """When the attempt is given up."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.remaining)

    @property
    def cancelled(self):
        """Whether the attempt is to stop: its result counts no more, or its function has returned."""
        return self._cancelled or self._ended

    def put(self, bucket, key=_MISSING, data=_MISSING, *, content_type="", meta=None, output=False, deliver_after=0):
        """put(bucket, key, data), or put(bucket, data) under a key that the platform makes up."""
        if data is _MISSING:
            key, data = None, key
        if data is _MISSING:
            raise TypeError("put takes a bucket, a key and data, or a bucket and data")
        if not isinstance(data, _Part):
            data = _flat(data)
        size = len(data)
        if size > self.max_object_bytes:
            raise Refused("object %r for bucket %r has %d bytes, at most %d are allowed" % (key, bucket, size, self.max_object_bytes))
        fields = [_text(_BUCKET, bucket, 64, "the name of a bucket")]
        if key is not None:
            fields.append(_text(_KEY, key, 1024, "a key"))
        _describe(fields, content_type, meta)
        if deliver_after:
            fields.append(_NUMBER.pack(_DELIVER_AFTER, 0, 8, _nanoseconds(deliver_after)))
        self._send_object(_PUT, 1 if output else 0, fields, data)

    def send(self, function, data, **options):
        """Puts data into the inbox of another function, which runs it."""
        self.put("@" + function, data, **options)

    def output(self, data, **options):
        """Makes data an output of the session."""
        self.put("@", data, output=True, **options)

    def start(self, function, data, *, into=None, key=None, timeout=None, content_type="", meta=None):
        """Starts a child session: function begins it, data is its input; every attempt starts the same child.

        With into, a bucket, the session waits for the child's end. The child's
        result becomes an object there, under key or, without one, the child's id:
        the one output of a completed child, else the JSON of its result. Its meta
        tell the child and how it ended: pheromone-session and pheromone-status
        (completed, failed, cancelled). Without into the child is independent.
        timeout, in seconds or as a timedelta, is how long the child may run.
        """
        data = _flat(data)
        size = len(data)
        if size > self.max_object_bytes:
            raise Refused("the input of a child session of function %r has %d bytes, at most %d are allowed" % (function, size, self.max_object_bytes))
        fields = [_text(_FUNCTION, function, 63, "the name of a function")]
        if into is not None:
            fields.append(_text(_BUCKET, into, 64, "the name of a bucket"))
        if key is not None:
            if into is None:
                raise TypeError("start takes a key for the child's result along with into, its bucket")
            fields.append(_text(_KEY, key, 1024, "a key"))
        _describe(fields, content_type, meta)
        if timeout is not None:
            timeout = _nanoseconds(timeout)
            if not _MIN_SESSION <= timeout <= _MAX_SESSION:
                raise Refused("a child session runs for 1 ms to 365 days, not for %s s" % (timeout / 1e9))
            fields.append(_NUMBER.pack(_TIMEOUT, 0, 8, timeout))
        self._send_object(_START, 0, fields, data)

    def join(self, bucket, trigger, keys):
        """Names the set of keys that the dynamic_join trigger on bucket waits for."""
        if isinstance(keys, (str, bytes)):
            raise TypeError("join takes a list of keys")
        fields = [_text(_BUCKET, bucket, 64, "the name of a bucket"), _text(_TRIGGER, trigger, 63, "the name of a trigger")]
        fields += [_text(_KEY, key, 1024, "a key") for key in keys]
        fields = b"".join(fields)
        if len(fields) > _FIELD_BYTES:
            raise Refused("a join of %d bytes of keys, at most %d fit" % (len(fields), _FIELD_BYTES))
        self._add(_JOIN, 0, fields, b"")
        self._connection.send_soon()

    def get(self, bucket, key):
        """Reads an object of the session; raises NotFound if it is not there."""
        self._check()
        fields = _text(_BUCKET, bucket, 64, "the name of a bucket") + _text(_KEY, key, 1024, "a key")
        found = self._connection.get(self, fields)
        found.bucket, found.key = bucket, key
        return found

    def create(self, bucket, key, size, **options):
        """A buffer of size bytes, to be filled in place and committed."""
        self._check()
        if size > self.max_object_bytes:
            raise Refused("object %r for bucket %r has %d bytes, at most %d are allowed" % (key, bucket, size, self.max_object_bytes))
        return Buffer(self, bucket, key, size, options)

    def log(self, *values):
        """Writes a line to the function's log."""
        if not self._ended:
            self._connection.log(self._call, 0, " ".join(map(str, values)))

    def _check(self):
        if self._ended:
            raise _ended()
        if self._cancelled:
            raise _cancelled()

    def _create(self, size):
        """A part of the outputs, freed with the attempt; None if there is no room or the object is small."""
        part = self._take(size)
        if part is not None:
            try:
                with self._lock:
                    self._check()
                    self._created.add(part)
            except BaseException:
                part.free()
                raise
        return part

    def _take(self, size):
        """A part of the outputs that the caller frees or sends."""
        return self._connection.outputs.take(size) if size >= _SHARED_BYTES else None

    def _lend(self, found):
        """Has an object that somebody keeps last when the attempt ends. One that has ended cares for no more of them."""
        with self._lock:
            self._inputs.append(weakref.ref(found))

    def _leave(self):
        """Ends the attempt and lets go of shared memory. What its threads ask for from now on fails."""
        with self._lock:
            self._ended = True
            inputs, self._inputs = self._inputs, []
            created, self._created = self._created, set()
        for reference in inputs:
            kept = reference()
            if kept is not None:
                kept._leave()
        for part in created:
            part.free()

    def _send_object(self, kind, flags, fields, data):
        """Sends an object's data where the node reads it, if it is large and there is room."""
        self._check()
        size, copied = len(data), None
        if isinstance(data, _Part):
            part = data
        else:
            part = copied = self._take(size)
        try:
            if part is None:
                where, data = _OBJECT.pack(_OBJECT_TAG, 0, 20, _INLINE, 0, size), bytes(data)
            else:
                if copied is not None:
                    copied.view[:] = data
                where, data = _OBJECT.pack(_OBJECT_TAG, 0, 20, _OUTPUT, part.offset, size), b""
            self._add(kind, flags, where + b"".join(fields), data, part)
        except BaseException:
            if copied is not None:
                copied.free()
            raise
        if part is not None:
            part.sent()
        self._connection.send_soon()

    def _add(self, kind, flags, fields, data, part=None):
        """Has a frame sent before the result. The part that it names is the node's from now on."""
        head = _HEADER.pack(len(fields) + len(data), kind, flags, 0, self._call, len(fields), 0) + fields
        with self._lock:
            self._check()
            self._created.discard(part)
            self._connection.add(head, data)


def _flat(data):
    """Bytes, or a view of what is large: it is copied when it is known where to."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    try:
        view = memoryview(data)
        if view.nbytes >= _SHARED_BYTES and view.c_contiguous and view.format in ("B", "b", "c"):
            return view.cast("B")
        return bytes(view)
    except TypeError:
        raise TypeError("data is bytes or str, not %s: encode it, as with json.dumps" % type(data).__name__) from None


def _nanoseconds(duration):
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    return int(duration * 1e9)


def _describe(fields, content_type, meta):
    """Adds what a put and a start say of their object."""
    if content_type:
        fields.append(_text(_CONTENT_TYPE, content_type, _CONTENT_TYPE_BYTES, "a content type"))
    if meta:
        fields.append(_encode_meta(meta))


def _text(tag, value, most, what):
    if not isinstance(value, str):
        raise TypeError("%s is a str, not %s" % (what, type(value).__name__))
    encoded = value.encode()
    if not 0 < len(encoded) <= most:
        raise Refused("%s has 1 to %d bytes, this one has %d" % (what, most, len(encoded)))
    return _FIELD.pack(tag, 0, len(encoded)) + encoded


def _encode_meta(meta):
    if len(meta) > _META_FIELDS:
        raise Refused("%d metadata fields, at most %d are allowed: put them into the object" % (len(meta), _META_FIELDS))
    out, total = [], 0
    for name, value in meta.items():
        name, value = str(name).encode(), str(value).encode()
        total += len(name) + len(value)
        if total > _META_BYTES:
            raise Refused("metadata of more than %d bytes: put it into the object" % _META_BYTES)
        out.append(_FIELD.pack(_META, 0, 2 + len(name) + len(value)) + struct.pack("<H", len(name)) + name + value)
    return b"".join(out)


_TEXTS = {
    _SESSION: "session",
    _BUCKET: "bucket",
    _TRIGGER: "trigger",
    _GROUP: "group",
    _TRACEPARENT: "traceparent",
}
_NUMBERS = {
    _NUMBER_TAG: "number",
    _ATTEMPT: "attempt",
    _TIMEOUT: "_timeout",
    _WINDOW: "_window",
    _MAX_OBJECT: "max_object_bytes",
}
_OBJECT_TEXTS = {_BUCKET: "bucket", _KEY: "key", _SESSION: "session", _CONTENT_TYPE: "content_type"}


def _parse(body, fields, ctx):
    """Decodes the fields of an INVOKE (into ctx) or GET_REPLY and returns the objects."""
    payload = memoryview(body)[fields:]
    objects = []
    current = None
    at = 0
    while at < fields:
        tag, _, size = _FIELD.unpack_from(body, at)
        at += 4
        end = at + size
        if end > fields:
            raise ProtocolError("a field is cut short")
        if tag == _OBJECT_TAG:
            kind, offset, length = _DESCRIPTOR.unpack_from(body, at)
            source = payload
            if kind == _INPUT:
                source = ctx._connection.inputs
            elif kind != _INLINE:
                raise ProtocolError("an object of kind %d" % kind)
            if offset + length > len(source):
                raise ProtocolError("an object is not where it is said to be")
            current = Object(source[offset : offset + length], ctx.bucket, ctx.session)
            objects.append(current)
            if kind == _INPUT:
                ctx._lend(current)
        elif current is not None:
            name = _OBJECT_TEXTS.get(tag)
            if name is not None:
                setattr(current, name, str(body[at:end], "utf-8", "replace"))
            elif tag == _META:
                split = at + 2 + struct.unpack_from("<H", body, at)[0]
                current.meta[str(body[at + 2 : split], "utf-8", "replace")] = str(body[split:end], "utf-8", "replace")
            elif tag == _DELETED:
                current.deleted = True
        elif tag in _TEXTS:
            setattr(ctx, _TEXTS[tag], str(body[at:end], "utf-8", "replace"))
        elif tag in _NUMBERS:
            setattr(ctx, _NUMBERS[tag], _U64.unpack_from(body, at)[0])
        at = end
    return objects


class ProtocolError(Exception):
    """The node broke the executor protocol."""


class _Part:
    """A part of the outputs: the program's until it is sent, and again once the node has released it."""

    __slots__ = ("offset", "size", "view", "_outputs")

    def __init__(self, outputs, offset, size):
        self._outputs = outputs
        self.offset = offset
        self.size = size
        self.view = outputs.memory[offset : offset + size]

    def __len__(self):
        return self.size

    def sent(self):
        try:
            self.view.release()
        except BufferError:
            pass  # something else was made of it, and is no longer to be used

    def free(self):
        self.sent()
        self._outputs.release(self.offset)


class _Outputs:
    """The memory that the program writes and the node reads. The lowest part that is free goes first: it is in memory already."""

    def __init__(self, memory):
        self.memory = memory
        self.size = len(memory)
        self.lock = threading.Lock()
        self.used = []  # (offset, end), sorted; both are multiples of a page
        self.touched = 0  # from here on nothing was ever written

    def take(self, size):
        """A part of size zero bytes, None if there is no room."""
        with self.lock:
            offset = 0
            for at, (begin, end) in enumerate(self.used):
                if begin - offset >= size:
                    break
                offset = end
            else:
                at = len(self.used)
            if size > self.size - offset:
                return None
            self.used.insert(at, (offset, -(-(offset + size) // _PAGE) * _PAGE))
            dirty = min(max(self.touched - offset, 0), size)
            self.touched = max(self.touched, offset + size)
        part = _Part(self, offset, size)
        for at in range(0, dirty, len(_ZEROS)):
            n = min(len(_ZEROS), dirty - at)
            part.view[at : at + n] = memoryview(_ZEROS)[:n]
        return part

    def release(self, offset):
        with self.lock:
            for at, (begin, _) in enumerate(self.used):
                if begin == offset:
                    del self.used[at]
                    return


def _shared():
    """What the node shares with the program: a view of the inputs, or None, and the outputs."""
    if "PHEROMONE_MEMORY" not in os.environ:
        return None, _Outputs(b"")
    try:
        import mmap

        inputs = mmap.mmap(4, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        outputs = mmap.mmap(5, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (ImportError, AttributeError, OSError, ValueError):
        return None, _Outputs(b"")  # everything travels on the socket
    finally:
        os.closerange(4, 6)  # programs that a function starts have no business with them
    return memoryview(inputs), _Outputs(memoryview(outputs))


_current = threading.local()


class _Worker(threading.Thread):
    """A thread that reads when it is its turn, and sleeps else."""

    def __init__(self, connection):
        super().__init__(daemon=True)
        self.connection = connection
        self.awake = threading.Lock()
        self.awake.acquire()

    def run(self):
        connection = self.connection
        try:
            while True:
                connection.lead()
                connection.park(self)
                self.awake.acquire()
        except BaseException as e:  # nothing can go on without a reader
            connection.fail(e)


class _Connection:
    """The program's end of the protocol.

    One thread at a time reads. It runs the attempt that it has read itself, for
    as long as that is short: no other thread is woken. The watch thread gives the
    reading to another thread when an attempt goes on for more than a tick; a
    function that is slow on average gives it away before it begins. What is to be
    sent is collected, and leaves before a read blocks, when an attempt without
    the reading ends, after a tick or two, or when it is much. Lines of log leave at
    once: they are wanted most when the program dies of what comes next.
    """

    def __init__(self, sock, concurrency):
        self.sock = sock
        self.inputs, self.outputs = _shared()
        self.concurrency = concurrency
        self.names = list(_functions)
        self.handlers = list(_functions.values())
        self.average = [0.0] * len(self.names)  # seconds that each function takes
        self.warned = set()  # functions whose return value was seen
        self.max_object = 0

        self.buffer = bytearray(_BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0

        self.out = []
        self.out_bytes = 0
        self.sends = 0  # counts flushes
        self.out_lock = threading.Lock()
        self.send_lock = threading.Lock()  # taken before out_lock

        self.lock = threading.Lock()  # guards what follows
        self.attempts = {}
        self.gets = {}
        self.last_get = 0
        self.idle = []
        self.inline = None  # the attempt that the reading thread runs
        self.leaving = False
        self.watching = False
        self.watch_awake = threading.Lock()
        self.watch_awake.acquire()
        self.done = threading.Event()
        self.error = None

    # Reading.

    def hello(self, told):
        self.add(_hello(self.concurrency, memory=self.inputs is not None, **told))
        kind, _, _, _, _, body = self.next()
        if kind == _GOODBYE:
            raise ProtocolError("the node refused this program: " + str(body, "utf-8", "replace"))
        if kind != _HELLO:
            raise ProtocolError("the node began with frame type %d instead of HELLO" % kind)
        answer = json.loads(bytes(body))
        if answer["version"] != 1:
            raise ProtocolError("the node chose protocol version %r" % answer["version"])
        self.max_object = answer["max_object_bytes"]
        if not answer.get("output_memory"):
            self.inputs, self.outputs = None, _Outputs(b"")

    def next(self):
        """The next frame; sends what is collected before it waits for one."""
        if self.end - self.start < 24:
            self.fill(24)
        size, kind, flags, _, call, fields, arg = _HEADER.unpack_from(self.buffer, self.start)
        if fields > size or not 1 <= kind <= _RELEASE:
            raise ProtocolError("a frame of type %d with %d bytes of fields in %d" % (kind, fields, size))
        total = 24 + size
        if total <= _BUFFER_BYTES:
            if self.end - self.start < total:
                self.fill(total)
            body = bytes(self.view[self.start + 24 : self.start + total])
            self.start += total
            return kind, flags, call, fields, arg, body
        body = bytearray(size)
        view = memoryview(body)
        have = self.end - self.start - 24
        view[:have] = self.view[self.start + 24 : self.end]
        self.start = self.end = 0
        while have < size:
            got = self.receive(view[have:])
            have += got
        return kind, flags, call, fields, arg, body

    def fill(self, n):
        start, end = self.start, self.end
        if start == end:
            start = end = 0
        elif start + n > _BUFFER_BYTES:
            self.buffer[: end - start] = bytes(self.view[start:end])
            start, end = 0, end - start
        self.start, self.end = start, end
        while self.end - start < n:
            self.end += self.receive(self.view[self.end :])

    def receive(self, view):
        if self.out:
            self.flush()
        got = self.sock.recv_into(view)
        if got == 0:
            raise EOFError("the node has closed the connection")
        return got

    def lead(self):
        """Reads, until another thread does."""
        while True:
            kind, flags, call, fields, arg, body = self.next()
            if kind == _INVOKE:
                if self.invoke(call, fields, arg, body):
                    return
            elif kind == _GET_REPLY:
                self.replied(flags, fields, arg, body)
            elif kind == _CANCEL:
                self.cancel(call)
            elif kind == _RELEASE:
                self.released(fields, body)
            elif kind == _PING:
                self.add(_HEADER.pack(0, _PONG, 0, 0, call, 0, 0))
            elif kind == _GOODBYE:
                with self.lock:
                    self.leaving = True
                    last = not self.attempts
                if last:
                    self.flush()
                    self.done.set()
            elif kind != _PONG:
                raise ProtocolError("the node sent frame type %d, which a program does not take" % kind)

    def released(self, fields, body):
        at = 0
        while at < fields:
            tag, _, size = _FIELD.unpack_from(body, at)
            if tag == _OBJECT_TAG:
                _, offset, _ = _DESCRIPTOR.unpack_from(body, at + 4)
                self.outputs.release(offset)
            at += 4 + size

    def invoke(self, call, fields, arg, body):
        """Runs an attempt; tells whether another thread reads now."""
        if arg >= len(self.handlers):
            raise ProtocolError("an INVOKE of function %d, there are %d" % (arg, len(self.handlers)))
        ctx = Context(self, call)
        ctx.function = self.names[arg]
        ctx._objects = _parse(body, fields, ctx)
        slow = self.average[arg] > _SLOW
        with self.lock:
            if call in self.attempts:
                raise ProtocolError("an INVOKE with id %d, which is running" % call)
            self.attempts[call] = ctx
            if not slow:
                self.inline = ctx
        if slow:
            self.give_reading()
        elif not self.watching:
            self.watch()
        began = time.perf_counter()
        self.run(ctx, self.handlers[arg])
        self.average[arg] += (time.perf_counter() - began - self.average[arg]) * 0.2
        with self.lock:
            mine = self.inline is ctx
            if mine:
                self.inline = None
            del self.attempts[call]
            last = self.leaving and not self.attempts
            waiting = self.waiting(ctx) if self.gets else ()
        for w in waiting:  # the node answers no more
            self.answer(w, _ended())
        if not mine or last:
            self.flush()
        if last:
            self.done.set()
        return not mine

    def give_reading(self):
        with self.lock:
            worker = self.idle.pop() if self.idle else None
        if worker is not None:
            worker.awake.release()
        else:
            _Worker(self).start()

    def park(self, worker):
        with self.lock:
            self.idle.append(worker)

    def watch(self):
        with self.lock:
            if self.watching:
                return
            self.watching = True
        self.watch_awake.release()

    def watcher(self):
        """Sees to it that nothing waits for a long attempt: a thread of its own."""
        while True:
            self.watch_awake.acquire()
            seen, sends, quiet = None, -1, 0
            while True:
                time.sleep(_TICK)
                with self.lock:
                    inline = self.inline
                    taken = inline is not None and inline is seen
                    if taken:
                        self.inline = None
                if taken:
                    self.give_reading()
                    inline = None
                seen = inline
                if self.out:
                    if self.sends == sends:
                        self.flush_quietly()
                    sends = self.sends
                    quiet = 0
                elif inline is not None:
                    sends, quiet = -1, 0
                else:
                    sends, quiet = -1, quiet + 1
                    if quiet >= 100:
                        with self.lock:
                            if self.inline is None:
                                # Who adds looks at this after it has added: it finds
                                # that nobody watches, or is found here.
                                self.watching = False
                                if not self.out:
                                    break
                                self.watching = True
                        quiet = 0

    # Running.

    def run(self, ctx, handler):
        objects, ctx._objects = ctx._objects, None
        _current.ctx = ctx
        failure = None
        try:
            result = handler(ctx, objects)
            if result is not None and ctx.function not in self.warned:
                self.warned.add(ctx.function)
                ctx.log(
                    "the function %r returned a value of type %s: its return value is ignored: use ctx.output"
                    % (ctx.function, type(result).__name__)
                )
        except BaseException as e:
            failure = _failure(e)
        _current.ctx = None
        objects = None  # what nobody else has kept need not last
        ctx._leave()
        for stream in tuple(ctx._line):
            self.log_rest(ctx, stream)
        if failure is None:
            self.add(_HEADER.pack(0, _RESULT, 0, 0, ctx._call, 0, 0))
        else:
            self.add(_HEADER.pack(len(failure), _ERROR, 0, 0, ctx._call, 0, 0) + failure)

    def cancel(self, call):
        with self.lock:
            ctx = self.attempts.get(call)
            if ctx is None:
                return
            ctx._cancelled = True
            waiting = self.waiting(ctx)
        for w in waiting:
            self.answer(w, _cancelled())

    def get(self, ctx, fields):
        waiting = [ctx, threading.Event(), None]
        with self.lock:
            ctx._check()  # if it ends or is cancelled from now on, this get is told
            self.last_get = number = self.last_get % 0xFFFFFFFF + 1
            self.gets[number] = waiting
            give = self.inline is ctx
            if give:
                self.inline = None
        try:
            self.add(_HEADER.pack(len(fields), _GET, 0, 0, ctx._call, len(fields), number) + fields)
            self.flush()
            if give:  # this thread can't read while it waits in here
                self.give_reading()
            waiting[1].wait()
        finally:
            with self.lock:
                del self.gets[number]
        if isinstance(waiting[2], Exception):
            raise waiting[2]
        return waiting[2]

    def waiting(self, ctx):
        """The gets of an attempt that wait. The lock is held."""
        return [w for w in self.gets.values() if w[0] is ctx]

    def answer(self, waiting, found):
        """Ends a get with an object or an error, unless it has been answered."""
        with self.lock:
            if waiting[2] is None:
                waiting[2] = found
        waiting[1].set()

    def replied(self, flags, fields, number, body):
        with self.lock:
            waiting = self.gets.get(number)
        if waiting is None:
            return
        if flags & 1:
            ctx = waiting[0]
            objects = _parse(body, fields, ctx)
            if len(objects) != 1:
                raise ProtocolError("a GET_REPLY with %d objects" % len(objects))
            # Of an attempt that has ended, the node may use the object's memory anew.
            found = _ended() if ctx._ended else objects[0]
        else:
            error = json.loads(bytes(body))
            kind = NotFound if error["kind"] == "not_found" else RuntimeError
            found = kind(error["message"])
        self.answer(waiting, found)

    # Sending.

    def add(self, head, data=b""):
        """Puts a frame into the next send."""
        with self.out_lock:
            self.out.append(head)
            if data:
                self.out.append(data)
            self.out_bytes += len(head) + len(data)

    def send_soon(self):
        """Has what was added sent within two ticks."""
        if self.out_bytes >= _FLUSH_BYTES:
            self.flush()
        elif not self.watching:
            self.watch()

    def log(self, call, stream, text):
        """Sends a line at once, past what is collected: puts keep waiting for their result."""
        encoded = text.encode("utf-8", "replace")
        frames = []
        for at in range(0, len(encoded) or 1, _LOG_BYTES):
            line = encoded[at : at + _LOG_BYTES]
            frames.append(_HEADER.pack(len(line), _LOG, 0, 0, call, 0, stream) + line)
        try:
            with self.send_lock:
                self.sock.sendall(b"".join(frames))
        except OSError as e:
            self.fail(e)

    def log_rest(self, ctx, stream):
        """Sends what was printed of a line that has no end yet."""
        rest = ctx._line.pop(stream, "")
        if rest:
            self.log(ctx._call, stream, rest)

    def flush(self):
        with self.send_lock:
            with self.out_lock:
                parts, size = self.out, self.out_bytes
                self.out, self.out_bytes = [], 0
                self.sends += 1
            if not parts:
                return
            if size <= _BUFFER_BYTES:
                self.sock.sendall(parts[0] if len(parts) == 1 else b"".join(parts))
                return
            at = 0
            while at < len(parts):
                sent = self.sock.sendmsg(parts[at : at + 512])
                while at < len(parts) and sent >= len(parts[at]):
                    sent -= len(parts[at])
                    at += 1
                if sent:
                    parts[at] = memoryview(parts[at])[sent:]

    def flush_quietly(self):
        try:
            self.flush()
        except OSError as e:
            self.fail(e)

    def fail(self, error):
        self.error = error
        self.done.set()


def _failure(e):
    kind = "failed"
    if isinstance(e, Permanent):
        kind = "permanent"
    elif isinstance(e, Refused):
        kind = "refused"
    detail = ""
    if kind == "failed":
        import traceback

        # Without the frame of this file that called the function.
        trace = e.__traceback__.tb_next if e.__traceback__ else None
        detail = "".join(traceback.format_exception(type(e), e, trace))[-_DETAIL_BYTES:]
    try:
        message = str(e)
    except Exception:
        message = "<an exception without a text: its __str__ fails>"
    if kind == "failed":
        message = "%s: %s" % (type(e).__name__, message)
    return json.dumps({"kind": kind, "message": message[:_DETAIL_BYTES], "detail": detail}).encode()


class _Stream(io.TextIOBase):
    """Stands for stdout or stderr: what an attempt's thread prints goes to its log."""

    def __init__(self, connection, number, original):
        self._connection = connection
        self._number = number
        self._original = original

    def write(self, text):
        ctx = getattr(_current, "ctx", None)
        if ctx is None:
            return self._original.write(text)
        *lines, rest = (ctx._line.get(self._number, "") + text).split("\n")
        for line in lines:
            self._connection.log(ctx._call, self._number, line)
        if len(rest) > _LOG_BYTES:
            self._connection.log(ctx._call, self._number, rest)
            rest = ""
        ctx._line[self._number] = rest
        return len(text)

    def flush(self):
        ctx = getattr(_current, "ctx", None)
        if ctx is not None:
            self._connection.log_rest(ctx, self._number)
        self._original.flush()

    def writable(self):
        return True

    def fileno(self):
        return self._original.fileno()

    def isatty(self):
        return False

    @property
    def encoding(self):
        return self._original.encoding

    @property
    def buffer(self):
        return self._original.buffer


def _hello(concurrency, **told):
    text = json.dumps(
        {"versions": [1], "sdk": "python/1", "functions": list(_functions), "concurrency": concurrency, "parallel": 1, **told}
    ).encode()
    return _HEADER.pack(len(text), _HELLO, 0, 0, 0, 0, 0) + text


# Forking executors. The process that forks them has loaded the program, and runs
# nothing of it from then on: it only answers the node.


def _unfit_to_fork():
    """Why the process, as the program has left it, can't be forked without harm; empty if it can."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return "prctl can't be called"
    try:
        threads = max(threading.active_count(), len(os.listdir("/proc/self/task")))
        own = 5 if "PHEROMONE_MEMORY" in os.environ else 3
        opened = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > own]
    except OSError:
        return "/proc can't be read"
    if threads > 1:
        return "it has %d threads, of which a fork would have one" % threads
    for fd in opened:
        try:
            return "it has %s open, which forks would share" % os.readlink("/proc/self/fd/%d" % fd)
        except OSError:
            pass  # the folder that was just read
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return "it has started a program, which is no child of a fork"
    except ChildProcessError:
        return ""


def _fork_executors(concurrency):
    """Forks an executor whenever the node asks for one. Returns in an executor; in this process it never does."""
    import array
    import ctypes
    import fcntl
    import gc
    import signal

    prctl = ctypes.CDLL(None).prctl
    die_with_parent = [1] + [ctypes.c_ulong(n) for n in (signal.SIGKILL, 0, 0, 0)]  # 1 is PR_SET_PDEATHSIG
    control = socket.socket(fileno=3)
    received = array.array("i")  # descriptors for the executor

    def read(n):
        data = b""
        while len(data) < n:
            part, more, _, _ = control.recvmsg(n - len(data), socket.CMSG_SPACE(16 * received.itemsize), socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in more:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    received.frombytes(content[: len(content) // received.itemsize * received.itemsize])
            if not part:
                os._exit(0)
            data += part
        return data

    def become_executor(request):
        prctl(*die_with_parent)
        if os.getppid() != here:
            os._exit(1)
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, on_child)
        control.detach()
        for fd, number in zip([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in received], request["descriptors"]):
            os.dup2(fd, number, inheritable=number < 3)
            os.close(fd)
        for fd in received:
            if fd not in request["descriptors"]:
                os.close(fd)
        for name, value in request["env"].items():
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = None  # the folder of this executor, from now on
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()  # random itself does so at a fork

    if "PHEROMONE_MEMORY" in os.environ:
        os.closerange(4, 6)  # each executor gets its own
    here = os.getpid()
    # A child that has ended keeps its number until the node has killed what it left.
    on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
    control.sendall(_hello(concurrency, forks=True))
    gc.freeze()  # a collection in a fork leaves alone, and shared, what is there now
    while True:
        sys.stdout.flush()
        sys.stderr.flush()
        size, kind, _, _, _, _, arg = _HEADER.unpack(read(24))
        body = read(size)
        if kind == _FORK:
            try:
                pid = os.fork()
            except OSError as e:
                pid, body = 0, str(e).encode()
            else:
                if pid == 0:
                    become_executor(json.loads(body))
                    return
                body = b""
                try:
                    os.setpgid(pid, pid)
                except OSError:
                    pass  # it has done so itself, and perhaps ended
            for fd in received:
                os.close(fd)
            del received[:]
            control.sendall(_HEADER.pack(len(body), _FORK, 0, 0, 0, 0, pid) + body)
        elif kind == _REAP:
            try:
                _, status = os.waitpid(arg, 0)
                control.sendall(_HEADER.pack(0, _REAP, 1, 0, 0, 0, status))
            except ChildProcessError:
                control.sendall(_HEADER.pack(0, _REAP, 0, 0, 0, 0, 0))
        elif kind == _GOODBYE:
            os._exit(0)


def main(concurrency=64, fork=True):
    """Runs the registered functions for the node that started the program, until it lets the program go.

    The node may load the program once and fork executors from that process. They
    share what the program has loaded and computed by now (docs/howto/python-functions.md).
    With fork=False each executor loads the program itself.
    """
    if "PHEROMONE_EXECUTOR" not in os.environ:
        print(
            "this program holds pheromone functions (%s): name it as the command of a function in a manifest "
            "and deploy it with: pheromone dev MANIFEST, or: pheromone apply -f MANIFEST\n"
            "to call a function in a test, put main() under: if __name__ == \"__main__\": and import the program"
            % (", ".join(_functions) or "none is registered"),
            file=sys.stderr,
        )
        sys.exit(2)
    os.set_inheritable(3, False)  # programs that a function starts must not keep the connection open
    told = {}
    if os.environ.pop("PHEROMONE_FORK", "") and fork:
        why = _unfit_to_fork()
        if not why:
            _fork_executors(concurrency)  # returns in an executor
        else:
            told["no_fork"] = why
    connection = _Connection(socket.socket(fileno=3), concurrency)
    connection.hello(told)
    sys.stdout = _Stream(connection, 1, sys.stdout)
    sys.stderr = _Stream(connection, 2, sys.stderr)
    threading.Thread(target=connection.watcher, daemon=True).start()
    connection.give_reading()
    connection.done.wait()
    sys.stdout, sys.stderr = sys.stdout._original, sys.stderr._original
    if connection.error is not None:
        sys.stdout.flush()
        print("pheromone: %s: %s" % (type(connection.error).__name__, connection.error), file=sys.stderr, flush=True)
        os._exit(1)
