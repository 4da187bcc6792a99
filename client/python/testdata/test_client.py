import io
import json
import math
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pheromone_client
from pheromone_client import Client, Error


class Node:
    """A server that says it is a node of a cluster."""

    def __init__(self, cluster, name):
        self.cluster, self.name, self.id = cluster, name, "cluster-1"
        self.asked, self.keys, self.bodies, self.handle = [], [], [], None
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                if self.path == "/v1/cluster":
                    return self.answer(200, node.cluster.view(node))
                node.asked.append(self.command + " " + self.path)
                node.keys.append(self.headers.get("Idempotency-Key") or "")
                node.bodies.append(body)
                if node.handle:
                    return node.handle(self)
                self.answer(200, node.cluster.done(self.headers.get("Idempotency-Key")))

            do_GET = do_PUT = do_POST = do_DELETE = do

            def answer(self, status, body, **headers):
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(text)

            def refuse(self, status, code, **headers):
                self.answer(status, {"error": {"code": code, "message": "not now", "hint": "look"}}, **headers)

            def drop(self):
                self.close_connection = True
                self.wfile.flush()

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass  # of connections that are dropped on purpose

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def die(self):
        """Takes no more connections."""
        self.server.socket.close()


class Cluster:
    def __init__(self, nodes):
        self.leader, self.results = "", {}
        self.nodes = [Node(self, "n%d" % i) for i in range(nodes)]

    def view(self, node):
        return {
            "id": node.id, "node": node.name,
            "nodes": [{"name": n.name, "api": n.url, "live": True} for n in self.nodes],
            "shards": [{"shard": 1, "leader": self.leader, "ranges": [{"from": 0, "to": 4095}]}],
        }

    def done(self, key):
        """Does a request once for each key, as shards do."""
        there = key in self.results
        result = self.results.setdefault(key, {"session": "s%d" % len(self.results), "revision": 1})
        return dict(result, existed=there)

    def stop(self):
        for n in self.nodes:
            n.server.shutdown()
            n.server.server_close()


class ClientTest(unittest.TestCase):
    def cluster(self, nodes):
        cluster = Cluster(nodes)
        self.addCleanup(cluster.stop)
        return cluster

    def both(self, cluster, **options):
        client = Client([n.url for n in cluster.nodes], discover=False, **options)
        self.addCleanup(client.close)
        return client

    def learned(self, client, servers):
        client._json(pheromone_client._Request("x", "GET", "/v1/x", repeatable=True))
        deadline = time.monotonic() + 60
        while len(client.servers) != servers or client._looking:
            self.assertLess(time.monotonic(), deadline, "the other nodes are not found")
            time.sleep(0.005)

    def test_a_put_whose_node_dies_in_the_middle_is_done_once_by_another(self):
        cluster = self.cluster(2)
        first, second = cluster.nodes

        def die(handler):
            cluster.done(handler.headers["Idempotency-Key"])
            handler.drop()

        first.handle = die
        result = self.both(cluster).put("a", "b", "k", "value")
        self.assertEqual((result["session"], result["existed"], len(cluster.results)), ("s0", True, 1))
        self.assertEqual(first.keys[0], second.keys[0])
        self.assertTrue(first.keys[0])
        self.assertEqual(second.bodies, [b"value"])

    def test_the_next_server_is_asked_where_one_does_not_listen_or_refuses(self):
        cluster = self.cluster(3)
        cluster.nodes[0].die()
        cluster.nodes[1].handle = lambda h: h.refuse(503, "unavailable", Retry_After="30")
        client = self.both(cluster)
        for _ in range(2):
            client.put("a", "b", "k", b"x", timeout=25)
        self.assertEqual((len(cluster.nodes[1].asked), len(cluster.nodes[2].asked)), (1, 2))

    def test_what_is_refused_for_good_is_not_sent_again(self):
        for status, code in [(400, "invalid"), (404, "not_found"), (409, "conflict"), (410, "gone"), (500, "internal"), (504, "timeout")]:
            cluster = self.cluster(2)
            cluster.nodes[0].handle = lambda h: h.refuse(status, code)
            with self.assertRaises(Error) as caught:
                self.both(cluster).put("a", "b", "k", b"x")
            self.assertEqual((caught.exception.code, caught.exception.status, caught.exception.hint), (code, status, "look"))
            self.assertEqual((len(cluster.nodes[0].asked), len(cluster.nodes[1].asked)), (1, 0))

    def test_files_are_sent_again_and_pipes_once(self):
        cluster = self.cluster(2)
        cluster.nodes[0].handle = lambda h: h.refuse(503, "unavailable")
        self.both(cluster).put("a", "b", "k", io.BytesIO(b"a file"))
        self.assertEqual(cluster.nodes[1].bodies, [b"a file"])

        class Pipe(io.BytesIO):
            def tell(self):
                raise OSError("a pipe")

        with self.assertRaisesRegex(Error, "can't be read twice"):
            self.both(cluster).put("a", "b", "k", Pipe(b"a pipe"))
        self.assertEqual((cluster.nodes[0].bodies[-1], len(cluster.nodes[1].bodies)), (b"a pipe", 1))

    def test_a_put_that_is_sent_once_has_no_key_and_is_not_repeated(self):
        cluster = self.cluster(2)
        cluster.nodes[0].handle = lambda h: h.drop()
        with self.assertRaises(Error) as caught:
            self.both(cluster).put("a", "b", "k", b"x", send_once=True)
        self.assertEqual((caught.exception.code, cluster.nodes[0].keys, cluster.nodes[1].asked), ("unavailable", [""], []))

    def test_calls_are_repeated_for_as_long_as_is_asked_for(self):
        cluster = self.cluster(1)
        cluster.nodes[0].handle = lambda h: h.refuse(503, "unavailable")
        with self.assertRaises(Error):
            self.both(cluster, retry_for=0).put("a", "b", "k", b"x")
        self.assertEqual(len(cluster.nodes[0].asked), 1)

    def test_the_nodes_of_a_cluster_are_found_and_their_leader_is_asked(self):
        cluster = self.cluster(4)
        cluster.nodes[3].id = "cluster-2"  # another one's, at this address
        cluster.leader = "n2"
        client = Client(cluster.nodes[0].url)
        self.addCleanup(client.close)
        self.learned(client, 3)
        self.assertNotIn(cluster.nodes[3].url, client.servers)
        client.put("a", "b", "k", b"x")
        client.session("a", "s")
        client.invoke("a", "f")
        self.assertEqual([len(n.asked) for n in cluster.nodes], [1, 0, 3, 0])
        cluster.nodes[2].handle = lambda h: h.drop()
        client.put("a", "b", "k", b"x")
        self.assertEqual(len(cluster.nodes[0].asked), 2)

    def test_a_watch_goes_on_at_another_node_without_a_gap_or_a_duplicate(self):
        cluster = self.cluster(2)

        def ten(handler):
            start = int(handler.path.partition("from=")[2] or 0)
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            for i in range(start + 1, min(start + 10, 30) + 1):
                event = {"type": "put", "object": {"key": "k%d" % i}, "position": str(i)}
                handler.wfile.write(b"id: %d\nevent: put\ndata: %s\n\n" % (i, json.dumps(event).encode()))
            handler.wfile.write(b":\n\nid: 99\nevent: put\ndata: {\"type\": \"pu")
            handler.drop()

        for n in cluster.nodes:
            n.handle = ten
        got = []
        for event in self.both(cluster).watch("a", "b"):
            got.append(event["object"]["key"])
            if len(got) == 30:
                break
        self.assertEqual(got, ["k%d" % (i + 1) for i in range(30)])
        self.assertTrue(all(n.asked for n in cluster.nodes))

        def gone(handler):
            handler.refuse(410, "gone")

        cluster.nodes[0].handle = cluster.nodes[1].handle = gone
        with self.assertRaises(Error) as caught:
            next(self.both(cluster).watch("a", "b", position="7"))
        self.assertEqual((caught.exception.code, caught.exception.hint), ("gone", "look"))

    def test_a_result_is_waited_for_at_another_node(self):
        cluster = self.cluster(2)
        cluster.nodes[0].handle = lambda h: h.drop()
        polls = []

        def answer(handler):
            polls.append(handler.path)
            running = len(polls) < 3
            handler.answer(200, {"session": "s", "status": "running" if running else "completed",
                                 "outputs": [] if running else [{"key": "o", "data": "eA=="}]})

        cluster.nodes[1].handle = answer
        result = self.both(cluster).result("a", "s", wait=math.inf)
        self.assertEqual((result["status"], result["outputs"][0]["data"]), ("completed", b"x"))

    def test_urls_that_make_no_sense_are_refused(self):
        for url in ["", "127.0.0.1:7070", "ftp://host", "http://", "http://host?x=1", "http://user@host", "http://a,b"]:
            with self.assertRaises(ValueError):
                Client(url)


if __name__ == "__main__":
    unittest.main()
