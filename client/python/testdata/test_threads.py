"""What threads do that outlive the handler that started them."""

import pickle
import threading
import unittest
from unittest import mock

import pheromone
from pheromone import Buffer, Cancelled

DEADLINE = 60  # seconds; only what is broken takes them
LARGE = 64 << 10


class Thread(threading.Thread):
    """Keeps what its function returns or raises."""

    def __init__(self, f):
        super().__init__(daemon=True)
        self.f = f
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.f()
        except Exception as e:
            self.error = e

    def end(self):
        self.join(DEADLINE)
        if self.is_alive():
            raise AssertionError("a thread hangs")
        return self


class Gate:
    """Where a thread waits until the test lets it through."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        if not self.opened.wait(DEADLINE):
            raise AssertionError("a gate was not opened")

    def await_thread(self):
        if not self.reached.wait(DEADLINE):
            raise AssertionError("no thread came to the gate")


class Key(str):
    """A key that takes its time."""

    def encode(self, *args):
        self.gate()
        return super().encode(*args)


class Outputs(pheromone._Outputs):
    """Outputs that tell what is asked of them."""

    taking = releasing = staticmethod(lambda: None)

    def take(self, size):
        self.taking()
        return super().take(size)

    def release(self, offset):
        super().release(offset)
        self.releasing()


class Socket:
    """Keeps what is sent."""

    def __init__(self):
        self.sent = b""
        self.sending = lambda data: None

    def sendall(self, data):
        self.sending(data)
        self.sent += data

    def frames(self):
        """What was sent: (type, fields) of each frame."""
        found, at = [], 0
        while at < len(self.sent):
            size, kind, _, _, _, fields, _ = pheromone._HEADER.unpack_from(self.sent, at)
            found.append((kind, self.sent[at + 24 : at + 24 + fields]))
            at += 24 + size
        return found


def described(kind, offset, size):
    return pheromone._OBJECT.pack(pheromone._OBJECT_TAG, 0, 20, kind, offset, size)


class Threads(unittest.TestCase):
    def setUp(self):
        self.threads = []
        self.inputs = bytearray(4 * LARGE)
        self.sock = Socket()
        self.connection = c = pheromone._Connection(self.sock, 4)
        c.max_object = 1 << 20
        c.inputs = memoryview(self.inputs).toreadonly()
        c.outputs = self.outputs = Outputs(memoryview(bytearray(16 * LARGE)))
        c.names, c.average = ["f"], [0.0]
        c.give_reading = lambda: None  # the tests say what the node answers

    def attempt(self, handler, fields=b""):
        """Runs an attempt to its end, as the thread that reads does."""
        wrong = []

        def checked(ctx, objects):
            try:
                handler(ctx, objects)
            except AssertionError as e:
                wrong.append(e)

        self.connection.handlers = [checked]
        self.connection.invoke(1, len(fields), 0, fields)
        for e in wrong:
            raise e

    def start(self, f):
        thread = Thread(f)
        self.threads.append(thread)
        return thread

    def assert_ended(self, thread):
        self.assertRegex(repr(thread.end().error), "RuntimeError.*the attempt has ended")

    def types(self):
        self.connection.flush()
        return [kind for kind, _ in self.sock.frames()]

    def test_what_is_put_while_the_attempt_is_left_is_refused(self):
        for end in "returns", "raises":
            for late in lambda ctx: ctx.put("b", "late", bytes(LARGE)), lambda ctx: ctx.create("b", "late", LARGE):
                with self.subTest(end):
                    self.setUp()

                    def handler(ctx, objects):
                        kept.extend(ctx.create("b", "k%d" % i, LARGE) for i in range(3))

                        def releasing():
                            if not self.threads:
                                self.start(lambda: late(ctx)).end()

                        self.outputs.releasing = releasing
                        if end == "raises":
                            raise ValueError("no luck")

                    kept = []
                    self.attempt(handler)
                    self.assert_ended(self.threads[0])
                    self.assertEqual(self.types(), [pheromone._RESULT if end == "returns" else pheromone._ERROR])
                    self.assertEqual(self.outputs.used, [])
                    with self.assertRaisesRegex(RuntimeError, "has ended"):
                        kept[0].commit()

    def test_what_a_thread_is_sending_is_overwritten_by_nobody(self):
        for commits in False, True:
            with self.subTest(commits=commits), mock.patch.object(pheromone, "_FLUSH_BYTES", 1):
                self.setUp()
                gate = Gate()
                self.sock.sending = lambda data: gate()

                def put(ctx):
                    if not commits:
                        return ctx.put("b", "first", b"1" * LARGE)
                    buffer = ctx.create("b", "first", LARGE)
                    buffer.data[:] = b"1" * LARGE
                    buffer.commit()

                def handler(ctx, objects):
                    self.start(lambda: put(ctx))
                    gate.await_thread()  # the node takes its time to read

                self.attempt(handler)
                second = pheromone.Context(self.connection, 2).create("b", "second", LARGE)
                second.data[:] = b"2" * LARGE
                gate.opened.set()
                self.assertIsNone(self.threads[0].end().error)
                kind, fields = self.sock.frames()[0]
                self.assertEqual(kind, pheromone._PUT)
                _, _, _, where, offset, size = pheromone._OBJECT.unpack_from(fields)
                self.assertEqual(where, pheromone._OUTPUT)
                self.assertEqual(bytes(self.outputs.memory[offset : offset + size]), b"1" * LARGE)
                release = described(pheromone._OUTPUT, offset, size)
                self.connection.released(len(release), release)
                self.assertEqual([begin for begin, _ in self.outputs.used], [LARGE])

    def test_memory_that_is_taken_when_the_attempt_has_ended_is_given_back(self):
        for late in lambda ctx: ctx.put("b", "late", bytes(LARGE)), lambda ctx: ctx.create("b", "late", LARGE):
            with self.subTest():
                self.setUp()
                self.outputs.taking = gate = Gate()

                def handler(ctx, objects):
                    self.start(lambda: late(ctx))
                    gate.await_thread()

                self.attempt(handler)
                gate.opened.set()
                self.assert_ended(self.threads[0])
                self.assertEqual(self.outputs.used, [])
                self.assertEqual(self.types(), [pheromone._RESULT])

    def test_what_is_put_is_sent_before_the_result_or_refused(self):
        contexts = []
        self.attempt(lambda ctx, objects: (contexts.append(ctx), ctx.put("b", "k", b"1")))
        for call in [
            lambda ctx: ctx.put("b", "k", b"2"),
            lambda ctx: ctx.put("b", "k", bytes(LARGE)),
            lambda ctx: ctx.send("g", b"2"),
            lambda ctx: ctx.output(b"2"),
            lambda ctx: ctx.start("g", bytes(LARGE)),
            lambda ctx: ctx.join("b", "t", ["k"]),
            lambda ctx: ctx.get("b", "k"),
            lambda ctx: ctx.create("b", "k", 1),
            lambda ctx: ctx.create("b", "k", LARGE),
        ]:
            with self.assertRaisesRegex(RuntimeError, "has ended"):
                call(contexts[0])
        contexts[0].log("nowhere")
        self.assertTrue(contexts[0].cancelled)
        self.assertEqual(self.types(), [pheromone._PUT, pheromone._RESULT])
        self.assertEqual(self.outputs.used, [])

    def test_a_put_that_is_not_sent_gives_its_memory_back_at_once(self):
        def handler(ctx, objects):
            self.outputs.taking = lambda: self.connection.cancel(1)
            with self.assertRaises(Cancelled):
                ctx.put("b", "k", bytes(LARGE))
            self.assertEqual(self.outputs.used, [])

        self.attempt(handler)
        self.assertEqual(self.types(), [pheromone._RESULT])

    def test_a_get_that_is_answered_when_the_attempt_has_ended_is_refused(self):
        for answered in False, True:
            with self.subTest(answered=answered):
                self.setUp()
                asked = threading.Event()
                self.sock.sending = lambda data: asked.set()
                before = self.connection.run

                def run(ctx, handler):
                    before(ctx, handler)
                    if answered:
                        fields = described(pheromone._INPUT, 0, LARGE)
                        self.connection.replied(1, len(fields), 1, fields)
                        self.inputs[:] = b"2" * len(self.inputs)

                self.connection.run = run

                def handler(ctx, objects):
                    self.start(lambda: ctx.get("b", "k"))
                    self.assertTrue(asked.wait(DEADLINE))

                self.attempt(handler)
                self.assert_ended(self.threads[0])
                self.assertEqual(self.connection.gets, {})

    def test_a_get_that_begins_when_the_attempt_is_over_does_not_wait_for_an_answer(self):
        for over in "ended", "cancelled":
            with self.subTest(over):
                self.setUp()
                key = Key("k")
                key.gate = gate = Gate()

                def handler(ctx, objects):
                    self.start(lambda: ctx.get("b", key))
                    gate.await_thread()
                    if over == "cancelled":
                        self.connection.cancel(1)
                        gate.opened.set()
                        self.threads[0].end()

                self.attempt(handler)
                gate.opened.set()
                if over == "ended":
                    self.assert_ended(self.threads[0])
                else:
                    self.assertIsInstance(self.threads[0].end().error, Cancelled)

    def test_data_that_a_thread_copies_while_the_attempt_is_left_is_right(self):
        for exported in False, True:
            with self.subTest(exported=exported):
                self.setUp()
                self.inputs[:LARGE] = b"1" * LARGE
                gate, held = Gate(), []

                def copy(view):
                    if threading.current_thread() is not threading.main_thread():
                        gate()
                    return bytes(view)

                def handler(ctx, objects):
                    if exported:
                        held.append(pickle.PickleBuffer(objects[0].view))
                    self.start(lambda: (objects[0].data, objects[0].data, objects[0].size))
                    gate.await_thread()

                with mock.patch.object(pheromone, "bytes", copy, create=True):
                    self.attempt(handler, described(pheromone._INPUT, 0, LARGE))
                    self.inputs[:] = b"2" * len(self.inputs)
                    gate.opened.set()
                    thread = self.threads[0].end()
                self.assertIsNone(thread.error)
                self.assertEqual(thread.result, (b"1" * LARGE, b"1" * LARGE, LARGE))

    def test_a_buffer_is_committed_by_one_thread_alone(self):
        for at in 1, 2:
            with self.subTest(at=at):
                self.setUp()
                errors = []

                class Read(Buffer):
                    """Has another thread commit it in the course of a commit."""

                    reads = 0

                    @property
                    def _put(self):
                        value = self.put
                        if threading.current_thread() is threading.main_thread():
                            self.reads += 1
                            if self.reads == at:
                                errors.append(Thread(self.commit).end().error)
                        return value

                    @_put.setter
                    def _put(self, value):
                        self.put = value

                def handler(ctx, objects):
                    buffer = Read(ctx, "b", "k", LARGE, {})
                    for _ in range(2):
                        try:
                            buffer.commit()
                            errors.append(None)
                        except ValueError as e:
                            errors.append(e)

                self.attempt(handler)
                self.assertEqual(self.types(), [pheromone._PUT, pheromone._RESULT])
                self.assertEqual(errors.count(None), 1)

    def test_what_is_put_when_the_watch_thread_falls_asleep_is_sent(self):
        sent, looked, c = threading.Event(), threading.Event(), self.connection
        self.sock.sending = lambda data: sent.set()
        test = self

        class Out(list):
            """Has a thread put as soon as the watch thread has found nothing to be sent."""

            def __len__(self):
                n = super().__len__()
                if c.lock.locked() and not test.threads:
                    test.start(lambda: pheromone.Context(c, 1).put("b", "k", b"1"))
                    looked.wait(DEADLINE)
                return n

        class Watched(pheromone._Connection):
            @property
            def watching(self):
                value = self.watched
                if threading.current_thread() is not threading.main_thread():
                    looked.set()
                return value

            @watching.setter
            def watching(self, value):
                self.watched = value

        c.__class__, c.watched, c.out = Watched, False, Out()
        c.watch()
        Thread(c.watcher)
        self.assertTrue(sent.wait(DEADLINE), "it was not sent")

    def test_an_exception_whose_text_fails_fails_its_attempt_alone(self):
        class Mute(Exception):
            def __str__(self):
                raise ValueError("no text")

        def handler(ctx, objects):
            raise Mute

        self.attempt(handler)
        self.assertEqual(self.types(), [pheromone._ERROR])
        self.assertIn(b"Mute: <an exception without a text", self.sock.sent)
