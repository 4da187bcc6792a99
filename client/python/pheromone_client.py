"""A client of Pheromone's HTTP API in Python: one file, standard library only.

    from pheromone_client import Client

    client = Client("http://10.0.0.1:7070,http://10.0.0.2:7070")
    client.put("shop", "orders", "1", b"tea")
    result = client.invoke("hello", "greet", "Ada", wait=10)
    print(result["outputs"][0]["data"])

A client is given one node or several. It finds the other nodes of their cluster,
sends requests for a key or a session to the node that leads its shard, and goes on
at another node when one goes away. A call that is safe to repeat is, for up to
retry_for seconds: puts, deletes and invokes carry an idempotency key for that. What
the server refuses is an Error with a stable code (docs/errors.md).

Methods may be called from several threads. Durations are seconds. Results are the
JSON of the API as dicts (docs/http-api.md), with the outputs' data as bytes.
"""

import base64
import http.client
import io
import json
import random
import secrets
import ssl
import threading
import time
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["Client", "Error", "Object", "key_slot", "session_slot"]

_SLOTS = 4096
_CONNECT = 10  # seconds until a connection is there
_SILENCE = 10  # until an answer begins, if there is another node to ask
_PATIENCE = 60  # the same, if there is none
_STREAM_SILENCE = 60  # four times what a server waits between two signs of life
_POLL = 20  # that one request asks the server to wait
_LEARN, _LEARN_ALONE, _LEARN_AGAIN, _LEARN_SOONEST = 30, 300, 2, 1
_PROBE = 2
_NODES = 64  # of a cluster, that a client cares for
_MAX_ANSWER = 512 << 20
_MAX_EVENT = 4 << 20


class Error(Exception):
    """A call that failed: code, message, status (0 without an answer), hint, session."""

    def __init__(self, op, code, message, *, status=0, hint="", session="", retry_after=0.0, sent=True):
        super().__init__("%s: %s" % (op, message))
        self.op, self.code, self.message, self.status = op, code, message, status
        self.hint, self.session = hint, session
        self.retry_after, self.sent = retry_after, sent


class Object:
    """An object: data (bytes), revision, content_type, meta, session, deleted."""

    __slots__ = ("bucket", "key", "data", "revision", "content_type", "meta", "session", "deleted")

    def __init__(self, bucket, key, data, headers):
        self.bucket, self.key, self.data = bucket, key, data
        self.revision = int(headers.get("Pheromone-Revision") or 0)
        self.content_type = headers.get("Content-Type") or ""
        prefix = "pheromone-meta-"
        self.meta = {n.lower()[len(prefix):]: v for n, v in headers.items() if n.lower().startswith(prefix)}
        self.session = headers.get("Pheromone-Session") or ""
        self.deleted = headers.get("Pheromone-Deleted") == "1"

    @property
    def text(self):
        return self.data.decode()

    def json(self):
        return json.loads(self.data)


class _Server:
    """A node as the client knows it."""

    def __init__(self, url, named):
        self.url, self.named = url, named
        self.node = ""  # its name, once it has told that itself
        self.failures = 0  # in a row
        self.avoid = 0.0  # others come first until then
        self.not_before = 0.0  # it asked to be left alone until then


class _Request:
    def __init__(self, op, method, path, query=None, headers=None, body=None, *, repeatable=False, slot=None, wait=0.0, named=False):
        pairs = {k: v for k, v in (query or {}).items() if v not in (None, "")}
        self.op, self.method = op, method
        self.target = path + ("?" + urlencode(pairs) if pairs else "")
        self.headers, self.body = headers or {}, body
        self.repeatable, self.slot, self.wait, self.named = repeatable, slot, wait, named
        self.until = float("inf")  # when the caller wants no more of it


class Client:
    """Talks to the nodes behind servers, URLs separated by commas or in a list."""

    def __init__(self, servers="http://127.0.0.1:7070", *, retry_for=30.0, discover=True, ssl_context=None):
        urls = servers.split(",") if isinstance(servers, str) else list(servers)
        self._servers = []
        for url in urls:
            base = _server_url(url.strip())
            if base not in [s.url for s in self._servers]:
                self._servers.append(_Server(base, True))
        self.retry_for = retry_for
        self._ssl = ssl_context
        self._reached = False  # some server has answered
        # What is behind a path is a proxy's matter: the nodes' own URLs may lead nowhere.
        self._discover = discover and not any(urlsplit(s.url).path for s in self._servers)
        self._lock = threading.Lock()
        self._current = self._servers[0]
        self._leaders = None  # by slot
        self._looking, self._looked, self._next_look = False, 0.0, 0.0
        self._local = threading.local()
        self._secure = self._servers[0].url.startswith("https://")  # then nothing goes in the clear

    @property
    def servers(self):
        """The URLs that requests go to: those named, and the cluster's others."""
        with self._lock:
            return [s.url for s in self._servers]

    def close(self):
        """Closes the connections of this thread; the next call opens new ones."""
        for connection in self._local.__dict__.pop("connections", {}).values():
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Objects.

    def put(self, app, bucket, key, data, *, session="", content_type="application/octet-stream", meta=None, ttl=None,
            deliver_after=None, session_timeout=None, if_revision=None, if_absent=False, idempotency_key="",
            send_once=False, timeout=None):
        """Puts an object, of a session if one is named. data is bytes-like, str or a binary
        file; a file that can't seek is sent once. send_once goes without an idempotency key:
        such a put is not repeated once a node may have taken it."""
        if send_once and idempotency_key:
            raise ValueError("send_once goes without an idempotency key, and there is one")
        headers = {"Content-Type": content_type}
        for name, value in (meta or {}).items():
            headers["Pheromone-Meta-" + name] = value
        if if_absent:
            headers["If-None-Match"] = "*"
        elif if_revision is not None:
            headers["If-Match"] = '"%d"' % if_revision
        if not send_once:
            headers["Idempotency-Key"] = idempotency_key or secrets.token_hex(16)
        query = {"ttl": _duration(ttl), "deliver_after": _duration(deliver_after), "session_timeout": _duration(session_timeout)}
        return self._json(_Request(
            "put %s/%s" % (bucket, key), "PUT", _object(app, session, bucket, key), query, headers, data,
            repeatable=not send_once, slot=_slot(app, session, bucket, key)), timeout)

    def get(self, app, bucket, key, *, session="", stale=False, timeout=None):
        """Returns an Object, of a session if one is named."""
        slot = None if stale else _slot(app, session, bucket, key)
        body, headers = self._call(_Request(
            "get %s/%s" % (bucket, key), "GET", _object(app, session, bucket, key), {"stale": "1" if stale else ""},
            repeatable=True, slot=slot), timeout)
        return Object(bucket, key, body, headers)

    def delete(self, app, bucket, key, *, if_revision=None, idempotency_key="", timeout=None):
        """Deletes a key-value object; the answer names the session that this starts."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        if if_revision is not None:
            headers["If-Match"] = '"%d"' % if_revision
        return self._json(_Request("delete %s/%s" % (bucket, key), "DELETE", _object(app, "", bucket, key), None, headers,
                                   repeatable=True, slot=key_slot(app, bucket, key)), timeout)

    def list(self, app, bucket, *, session="", prefix="", timeout=None):
        """Yields the objects of a bucket in key order, as dicts without their bytes."""
        path = _path("apps", app, *(("sessions", session) if session else ()), "buckets", bucket, "objects")
        after = ""
        while True:
            page = self._json(_Request("list %s" % bucket, "GET", path, {"prefix": prefix, "after": after}, repeatable=True), timeout)
            yield from page["items"]
            after = page.get("next")
            if not after:
                return

    def watch(self, app, bucket, *, prefix="", position=""):
        """Yields what happens to a bucket's key-value objects as dicts (type, object,
        position), from now on or behind a position, until the caller stops. It goes on at
        another node when a connection breaks. An Error with code gone says that the
        position is not kept any more, its hint where to go on."""
        at = [position]

        def request():
            return _Request("watch %s" % bucket, "GET", _path("apps", app, "buckets", bucket, "watch"),
                            {"prefix": prefix, "from": at[0]}, repeatable=True)

        for number, event in self._follow(request, True):
            at[0] = event.get("position") or number or at[0]
            if event.get("type"):
                event["position"] = at[0]
                yield event

    def logs(self, app, function="", *, tail=0, follow=False):
        """Yields lines that functions printed, as dicts, oldest first."""
        last, at_last, until = "", [], ""

        def request():
            nonlocal until
            until = last
            return _Request("logs of %s" % app, "GET", _path("apps", app, "logs"),
                            {"function": function, "tail": tail or "", "follow": "1" if follow else ""}, repeatable=True)

        for _, line in self._follow(request, follow):
            when = _sortable(line.get("time", ""))
            if when < until or when == until and line in at_last:
                continue  # an earlier connection had it
            if when > last:
                last, at_last = when, []
            at_last.append(line)
            yield line

    # Functions and sessions.

    def invoke(self, app, function, data=b"", *, wait=0.0, content_type="application/octet-stream", meta=None,
               session_timeout=None, idempotency_key="", timeout=None):
        """Runs a function. With a wait, or math.inf, returns the session's result, and raises
        an Error if it failed (session_failed), was cancelled or is not done in time (timeout,
        and it goes on); without one, a result whose status is running."""
        key = idempotency_key or secrets.token_hex(16)
        headers = {"Content-Type": content_type, "Idempotency-Key": key}
        for name, value in (meta or {}).items():
            headers["Pheromone-Meta-" + name] = value
        op = "invoke %s" % function
        started = self._json(_Request(
            op, "POST", _path("apps", app, "functions", function, "invoke"), {"session_timeout": _duration(session_timeout)}, headers,
            data, repeatable=True, slot=key_slot(app, "@" + function, key)), timeout)
        session = started["session"]
        if not wait:
            return {"session": session, "status": "running", "outputs": []}
        result = self.result(app, session, wait=wait)
        if result["status"] != "completed":
            code, text = {"failed": ("session_failed", "the session failed"), "cancelled": ("session_cancelled", "the session was cancelled")}.get(
                result["status"], ("timeout", "the session is still running"))
            raise Error(op, code, (result.get("error") or {}).get("message") or text, session=session)
        return result

    def result(self, app, session, *, wait=0.0, until_output=False):
        """Returns what a session has come to by the end of the wait; math.inf waits for ever.
        It is asked of another node when one goes away."""
        deadline = time.monotonic() + wait
        path = _path("apps", app, "sessions", session, "result")
        while True:
            poll = max(0.0, min(_POLL, deadline - time.monotonic()))
            try:
                result = self._json(_Request(
                    "wait for session %s" % session, "GET", path,
                    {"wait": _duration(poll) if poll >= 0.001 else "", "until": "output" if until_output and poll >= 0.001 else ""},
                    repeatable=True, slot=session_slot(app, session), wait=poll))
            except Error as e:
                if not self._reached or e.code not in ("unavailable", "overloaded") or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
                continue
            for output in result["outputs"]:
                output["data"] = base64.b64decode(output.get("data") or "")
            if result["status"] != "running" or until_output and result["outputs"] or time.monotonic() >= deadline:
                return result
            time.sleep(0.05)  # a server that answers before its time is up must not be hammered

    def session(self, app, session, *, timeout=None):
        """Describes a session and what its triggers wait for."""
        return self._json(_Request("get session %s" % session, "GET", _path("apps", app, "sessions", session),
                                   repeatable=True, slot=session_slot(app, session)), timeout)

    def cancel(self, app, session, *, timeout=None):
        """Ends a session; one that has ended stays as it is."""
        return self._json(_Request("cancel session %s" % session, "POST", _path("apps", app, "sessions", session, "cancel"), body=b"",
                                   repeatable=True, slot=session_slot(app, session)), timeout)

    def apply(self, app, manifest, *, artifact="", idempotency_key="", timeout=None):
        """Deploys a manifest (YAML text)."""
        headers = {"Content-Type": "application/yaml", "Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return self._json(_Request("apply %s" % app, "PUT", _path("apps", app), {"artifact": artifact},
                                   headers, manifest, repeatable=True), timeout)

    def apps(self, *, timeout=None):
        return self._json(_Request("list apps", "GET", _path("apps"), repeatable=True), timeout)["items"]

    def cluster(self, *, timeout=None):
        """What one of the named servers knows of the cluster."""
        return self._json(_Request("get cluster", "GET", _path("cluster"), repeatable=True, named=True), timeout)

    # How a request is sent.

    def _json(self, r, timeout=None):
        body, _ = self._call(r, timeout)
        try:
            return json.loads(body)
        except ValueError:
            raise Error(r.op, "internal", "the server's answer is not the JSON that was expected") from None

    def _call(self, r, timeout=None):
        """Sends r until it is answered well, fails for good, or there is no more time."""
        return self._send(r, lambda server: self._once(server, r), timeout)

    def _send(self, r, once, timeout=None):
        r.body = body = _Body(r.body)
        began, attempt = time.monotonic(), 0
        if timeout is not None:
            r.until = began + timeout
        server = self._choose(r)
        while True:
            attempt += 1
            try:
                answer = once(server)
                self._note(server, r, None)
                return answer
            except Error as e:
                self._note(server, r, e)
                now = time.monotonic()
                if not _may_repeat(r, e) or now - began >= self.retry_for or now >= r.until:
                    raise
                if not body.rewind():
                    raise Error(e.op, e.code, e.message + "; the body can't be read twice, so it was sent once",
                                status=e.status, hint="send bytes or a file, or read the body into memory") from e
                server = self._choose(r)
                pause = random.uniform(0, min(2.0, 0.05 * 2 ** min(attempt - 1, 10)))
                pause = max(pause, server.not_before - time.monotonic(), e.retry_after if e.status == 429 else 0)
                if time.monotonic() + pause >= r.until:
                    raise
            time.sleep(pause)

    def _once(self, server, r):
        connection, fresh = self._connection(server, not r.repeatable)
        connection, response = self._exchange(server, r, connection, fresh)
        try:
            body = response.read(_MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise Error(r.op, "unavailable", "the answer broke off: %s" % (e or type(e).__name__)) from e
        if len(body) > _MAX_ANSWER:
            connection.close()
            raise Error(r.op, "too_large", "the answer is larger than %d bytes" % _MAX_ANSWER)
        if response.status >= 300:
            raise _error_of(r.op, response.status, response.headers, body)
        return body, response.headers

    def _exchange(self, server, r, connection, fresh):
        headers = dict(r.headers)
        headers["User-Agent"] = "pheromone-python"
        headers.update(r.body.headers())
        sent = False
        try:
            if fresh:
                connection.connect()
            sent = True
            several = len(self._servers) > 1 and r.repeatable
            limit = (_SILENCE if several else _PATIENCE) + r.wait
            connection.sock.settimeout(max(0.001, min(limit, r.until - time.monotonic())))
            connection.request(r.method, urlsplit(server.url).path + r.target, body=r.body.content(), headers=headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            if r.body.fault is not None:
                raise Error(r.op, "invalid", "reading the body: %s" % r.body.fault) from e
            if not fresh and not isinstance(e, TimeoutError) and r.body.rewind():
                again, _ = self._connection(server, True)  # the server had closed it while it was idle
                return self._exchange(server, r, again, True)
            raise Error(r.op, "unavailable", "%s: %s" % (server.url, str(e) or type(e).__name__), sent=sent,
                        hint="" if sent else "is a node running there? `pheromone dev` starts one") from e

    def _connection(self, server, fresh):
        """A connection of this thread to a server, and whether it is a new one."""
        kept = self._local.__dict__.setdefault("connections", {})
        connection = kept.get(server.url)
        if not fresh and connection is not None and connection.sock is not None:
            return connection, False
        if connection is not None:
            connection.close()
        kept[server.url] = connection = self._open(server.url)
        return connection, True

    def _open(self, url, timeout=_CONNECT):
        u = urlsplit(url)
        if u.scheme == "https":
            return http.client.HTTPSConnection(u.hostname, u.port or 443, timeout=timeout, context=self._tls())
        return http.client.HTTPConnection(u.hostname, u.port or 80, timeout=timeout)

    def _tls(self):
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
        return self._ssl

    def _follow(self, request, again):
        """Yields (id, data) of the events of a stream, and connects again when it breaks."""
        connected, attempt = False, 0
        while True:
            r, stream = request(), None
            r.headers["Accept"] = "text/event-stream"
            try:
                server, connection, stream = self._send(r, lambda server: self._stream(server, r))
                connected, attempt = True, 0
                try:
                    for kind, number, data in _events(stream):
                        if kind == "error":
                            raise _error_of(r.op, 0, {}, data)
                        yield number, json.loads(data) if data else {}
                except (OSError, http.client.HTTPException) as e:
                    raise Error(r.op, "unavailable", "the stream broke off: %s" % (e or type(e).__name__)) from e
                finally:
                    connection.close()
                if not again:
                    return
                self._note(server, r, Error(r.op, "unavailable", "the stream has ended"))
            except Error as e:
                if not again or not connected or e.code not in ("unavailable", "overloaded", "timeout"):
                    raise
                if stream is not None:
                    self._note(server, r, e)
            attempt += 1
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2 ** min(attempt - 1, 10))))

    def _stream(self, server, r):
        connection, response = self._exchange(server, r, self._open(server.url), True)
        if response.status >= 300:
            body = response.read(_MAX_EVENT)
            connection.close()
            raise _error_of(r.op, response.status, response.headers, body)
        sock = connection.sock or getattr(getattr(response.fp, "raw", None), "_sock", None)
        if sock is not None:
            sock.settimeout(_STREAM_SILENCE)
        return server, connection, response

    # Where a request is sent.

    def _choose(self, r):
        """The leader of r's slot, else what answered last, else the next that has not failed."""
        now = time.monotonic()
        with self._lock:
            if r.slot is not None and self._leaders is not None:
                leader = self._leaders[r.slot]
                if leader is not None and leader.avoid <= now:
                    return leader
            start = self._servers.index(self._current) if self._current in self._servers else 0
            order = self._servers[start:] + self._servers[:start]
            order = [s for s in order if s.named or not r.named]
            return next((s for s in order if s.avoid <= now), None) or min(order, key=lambda s: s.avoid)

    def _note(self, server, r, e):
        """Remembers of a server what an attempt has shown."""
        now = time.monotonic()
        with self._lock:
            self._reached = self._reached or e is None or e.status != 0
            if e is None:
                server.failures, server.avoid, server.not_before = 0, 0.0, 0.0
                if r.slot is None or self._leaders is None:
                    self._current = server
            elif e.status in (502, 503):
                server.avoid, server.not_before = now + max(0.1, e.retry_after), now + e.retry_after
                if r.slot is not None and self._leaders is not None and self._leaders[r.slot] is server:
                    self._leaders[r.slot] = None
            elif e.status == 0 and e.code == "unavailable":
                server.avoid = now + min(10.0, 0.1 * 2 ** min(server.failures, 10))
                server.failures, server.node = server.failures + 1, ""
                if self._leaders is not None:
                    self._leaders = [None if s is server else s for s in self._leaders]
        self._look_if_due(e is not None and e.code == "unavailable")

    def _look_if_due(self, failed):
        now = time.monotonic()
        with self._lock:
            if failed:
                self._next_look = min(self._next_look, self._looked + _LEARN_SOONEST)
            if not self._discover or self._looking or now < self._next_look:
                return
            self._looking, self._looked, self._next_look = True, now, now + _LEARN
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        """Asks one node for its cluster, and each of the others whether it is of it."""
        planned, again = self._next_look, _LEARN
        try:
            with self._lock:
                order = [s.url for s in sorted(self._servers, key=lambda s: s.avoid)]
                known = {s.url: s.node for s in self._servers}
            for asked in order:
                view = self._ask(asked)
                if view is None:
                    continue
                if not view.get("id"):
                    again = _LEARN_ALONE
                    break
                if self._learn(asked, view, known) < _SLOTS:
                    again = _LEARN_AGAIN
                break
        finally:
            with self._lock:
                self._looking = False
                if self._next_look == planned:  # nothing has failed meanwhile
                    self._next_look = time.monotonic() + again

    def _learn(self, asked, view, known):
        wanted = dict.fromkeys(known, "")  # the name that is expected; "": any
        for node in (view.get("nodes") or [])[:_NODES]:
            try:
                url = _server_url(node.get("api") or "")
            except ValueError:
                continue
            if node.get("live") and node.get("name") and (url.startswith("https://") or not self._secure):
                wanted[url] = node["name"]
        found = {asked: view.get("node", "")}
        for url, name in wanted.items():
            if url == asked:
                continue
            if known.get(url) and name in ("", known[url]):
                found[url] = known[url]
                continue
            its = self._ask(url)
            if its and its.get("id") == view["id"] and its.get("node") and name in ("", its["node"]):
                found[url] = its["node"]
        leads = {}
        for shard in view.get("shards") or []:
            for span in (shard.get("ranges") or []) if shard.get("leader") else []:
                for slot in range(max(0, span["from"]), min(_SLOTS - 1, span["to"]) + 1):
                    leads[slot] = shard["leader"]
        with self._lock:
            self._servers = [s for s in self._servers if s.named or s.url in found]
            by_name = {}
            for s in self._servers:
                s.node = found.get(s.url, "")
                if s.node:
                    by_name.setdefault(s.node, s)
            for url in sorted(found):
                if found[url] not in by_name:
                    server = _Server(url, False)
                    server.node = found[url]
                    by_name[server.node] = server
                    self._servers.append(server)
            several = len(self._servers) > 1
            self._leaders = [by_name.get(leads.get(slot)) for slot in range(_SLOTS)] if several else None
        return len(leads)

    def _ask(self, url):
        connection = self._open(url, _PROBE)
        try:
            connection.request("GET", "/v1/cluster", headers={"User-Agent": "pheromone-python"})
            response = connection.getresponse()
            view = json.loads(response.read(_MAX_EVENT)) if response.status == 200 else None
            return view if isinstance(view, dict) else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()



class _Body:
    """The body of a request that may be sent several times."""

    def __init__(self, data):
        self.fault = None  # the source's, if it was that which failed
        self._file, self._start, self._size, self._data, self._taken = None, None, None, None, False
        if isinstance(data, str):
            data = data.encode()
        if data is None or isinstance(data, (bytes, bytearray, memoryview)):
            self._data = data
            return
        if not hasattr(data, "read"):
            raise TypeError("data is %s: give bytes, str or a binary file" % type(data).__name__)
        self._file = data
        try:
            self._start = data.tell()
            self._size = data.seek(0, io.SEEK_END) - self._start
            data.seek(self._start)
        except (OSError, AttributeError, io.UnsupportedOperation):
            self._start = self._size = None  # a pipe

    def headers(self):
        if self._data is not None:
            return {"Content-Length": str(memoryview(self._data).nbytes)}
        if self._size is not None:
            return {"Content-Length": str(self._size)}
        return {"Transfer-Encoding": "chunked"} if self._file is not None else {}

    def content(self):
        if self._file is None:
            return self._data
        pieces = self._pieces()
        return _chunked(pieces) if self._size is None else pieces

    def _pieces(self):
        while True:
            try:
                piece = self._file.read(64 << 10)
            except Exception as e:
                self.fault = e
                raise
            self._taken = self._taken or bool(piece)
            if not piece:
                return
            yield piece

    def rewind(self):
        if self._file is None or not self._taken:
            return True
        if self._start is None:
            return False
        self._file.seek(self._start)
        return True


def _chunked(pieces):
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _may_repeat(r, e):
    """Whether sending r once more can't do its work twice."""
    if e.status == 429:
        return True
    if e.status in (502, 503):
        return r.repeatable
    return e.status == 0 and e.code == "unavailable" and (r.repeatable or not e.sent)


_CODES = {400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 409: "conflict",
          410: "gone", 412: "precondition_failed", 413: "too_large", 415: "unsupported_media_type", 422: "invalid",
          429: "overloaded", 502: "unavailable", 503: "unavailable", 504: "timeout"}


def _error_of(op, status, headers, body):
    """The Error that an answer holds; a proxy between may answer with a page of its own."""
    try:
        said = json.loads(body)["error"]
        code, message = said["code"], said["message"]
    except (ValueError, KeyError, TypeError):
        said, code, message = {}, _CODES.get(status, "internal"), "the server answered with status %d" % status
    after = headers.get("Retry-After") or ""
    return Error(op, code, message, status=status, hint=said.get("hint") or "",
                 session=said.get("session") or headers.get("Pheromone-Session") or "",
                 retry_after=min(30.0, float(after)) if after.isdigit() else 0.0)


def _events(stream):
    """Yields (kind, id, data) of server-sent events."""
    kind, number, data, size = "", "", None, 0
    while True:
        line = stream.readline(_MAX_EVENT + 1)
        size += len(line)
        if size > _MAX_EVENT:
            raise Error("read a stream", "too_large", "an event is larger than %d bytes" % _MAX_EVENT)
        if not line:
            return
        line = line.rstrip(b"\r\n")
        if not line:
            if number or data is not None:
                yield kind, number, data or b""
            kind, number, data, size = "", "", None, 0
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"id":
            number = value.decode()
        elif name == b"event":
            kind = value.decode()
        elif name == b"data":
            data = value if data is None else data + b"\n" + value


def _server_url(text):
    u = urlsplit(text)
    if u.scheme not in ("http", "https") or not u.hostname or u.query or u.fragment or u.username is not None:
        raise ValueError("server URL %r: it must be no more than http:// or https://, host, port and perhaps a path" % text)
    return "%s://%s%s" % (u.scheme, u.netloc, u.path.rstrip("/"))


def _path(*segments):
    """Joins the segments below /v1; a slash in one, or dots only, stay one segment."""
    escaped = (s.replace(".", "%2E") if s in (".", "..") else quote(s, safe="") for s in segments)
    return "/v1/" + "/".join(escaped)


def _object(app, session, bucket, key):
    inside = ("sessions", session) if session else ()
    return _path("apps", app, *inside, "buckets", bucket, "objects", key)


def _duration(seconds):
    if seconds is None:
        return ""
    if hasattr(seconds, "total_seconds"):
        seconds = seconds.total_seconds()
    return "%dms" % max(1, round(seconds * 1000))


def _sortable(when):
    """A time of the API, so that later ones compare as greater."""
    head, _, fraction = when.rstrip("Z").partition(".")
    return head + "." + fraction.ljust(9, "0")


# Where things are placed: spec.KeySlot and spec.SessionSlot in Go.

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_M = (1 << 64) - 1
_P1, _P2, _P3, _P4, _P5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def key_slot(app, bucket, key):
    """The slot of a key-value object."""
    return _hash_slot(app, bucket, key)


def session_slot(app, session):
    """The slot of a session: the one in an id that the server made, the hash of any other."""
    if len(session) == 23 and session[0] == "s" and all(c in _ALPHABET for c in session[1:]):
        slot = 0
        for c in session[10:13]:
            slot = slot << 5 | _ALPHABET.index(c)
        if slot < _SLOTS:
            return slot
    return _hash_slot(app, session)


def _slot(app, session, bucket, key):
    return session_slot(app, session) if session else key_slot(app, bucket, key)


def _hash_slot(*parts):
    return _xxh64(b"".join(p.encode() + b"\0" for p in parts)) % _SLOTS


def _rotate(x, n):
    return (x << n | x >> (64 - n)) & _M


def _round(acc, lane):
    return _rotate((acc + lane * _P2) & _M, 31) * _P1 & _M


def _xxh64(data):
    """XXH64 with seed 0."""
    at, end = 0, len(data)
    word = lambda n: int.from_bytes(data[at:at + n], "little")  # noqa: E731
    if end >= 32:
        lanes = [(_P1 + _P2) & _M, _P2, 0, -_P1 & _M]
        while at + 32 <= end:
            for i in range(4):
                lanes[i] = _round(lanes[i], word(8))
                at += 8
        h = sum(_rotate(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18))) & _M
        for lane in lanes:
            h = ((h ^ _round(0, lane)) * _P1 + _P4) & _M
    else:
        h = _P5
    h = (h + end) & _M
    while at + 8 <= end:
        h = (_rotate(h ^ _round(0, word(8)), 27) * _P1 + _P4) & _M
        at += 8
    if at + 4 <= end:
        h = (_rotate(h ^ word(4) * _P1 & _M, 23) * _P2 + _P3) & _M
        at += 4
    while at < end:
        h = _rotate(h ^ data[at] * _P5 & _M, 11) * _P1 & _M
        at += 1
    h = (h ^ h >> 33) * _P2 & _M
    h = (h ^ h >> 29) * _P3 & _M
    return h ^ h >> 32
