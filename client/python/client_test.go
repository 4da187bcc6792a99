package python_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestTheClientsOwnTestsPass(t *testing.T) { passes(t, "test_client", 10) }

func TestBothClientsFindTheSameSlots(t *testing.T) {
	var program strings.Builder
	program.WriteString("from pheromone_client import key_slot, session_slot\n")
	for n := 1; n < 80; n += 3 { // around the strides of the hash
		key := strings.Repeat("k", n)
		fmt.Fprintf(&program, "assert key_slot('app', 'größe', %q) == %d\n", key, spec.KeySlot("app", "größe", spec.Key(key)))
		fmt.Fprintf(&program, "assert session_slot('app', %q) == %d\n", key, spec.SessionSlot("app", spec.SessionID(key)))
	}
	made := spec.NewSessionID(777, time.Now())
	fmt.Fprintf(&program, "assert session_slot('app', %q) == 777\n", made)
	if out, state := python(t, t.TempDir(), "-c", program.String()); !state.Success() {
		t.Fatalf("%s\n%s", state, out)
	}
}

// clientProgram puts, reads, runs and watches, while the node is killed and started
// again: it says when it may be.
const clientProgram = `
import sys, threading
from pheromone_client import Client, Error

client = Client(sys.argv[1], retry_for=120)
client.apply("app", "apiVersion: pheromone/v1\napp: app\nbuckets: {b: {}}\n")
seen, watching = [], threading.Event()

def watch():
    for event in client.watch("app", "b"):
        watching.set()
        if event["object"]["key"] != "start":
            seen.append(event["object"]["key"])
        if event["object"]["key"] == "end":
            return

watcher = threading.Thread(target=watch)
watcher.start()
while not watching.is_set():
    client.put("app", "b", "start", b"")
    watching.wait(0.02)
for i in range(120):
    if i == 40:
        print("kill", flush=True)
    client.put("app", "b", "k%d" % i, b"value %d" % i, content_type="text/plain", meta={"n": str(i)})
object = client.get("app", "b", "k7")
assert (object.data, object.content_type, object.meta["n"]) == (b"value 7", "text/plain", "7"), object
client.put("app", "b", "k7", "new", if_revision=object.revision)
try:
    client.put("app", "b", "k7", "newer", if_revision=object.revision)
except Error as e:
    assert (e.code, e.status) == ("precondition_failed", 412), e
else:
    raise AssertionError("an old revision was accepted")
client.delete("app", "b", "k8")
assert len(list(client.list("app", "b", prefix="k"))) == 119
try:
    client.get("app", "b", "k8")
except Error as e:
    assert e.code == "not_found", e
client.put("app", "b", "end", b"")
watcher.join()
assert seen == ["k%d" % i for i in range(120)] + ["k7", "k8", "end"], seen
assert [a["app"] for a in client.apps()] == ["app"]
print("done", flush=True)
`

func TestAProgramGoesOnOverTheRestartOfARealNode(t *testing.T) {
	n := nodetest.Start(t)
	cmd, out := start(t, clientProgram, n.URL())
	for line := range out {
		switch line {
		case "kill":
			n.Kill()
			n.Restart()
		case "done":
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			return
		default:
			t.Log(line)
		}
	}
	t.Fatalf("the program ended early: %v", cmd.Wait())
}

func TestAProgramRunsFunctionsAndReadsTheirLogs(t *testing.T) {
	n := nodetest.Start(t)
	c := n.Client()
	defer c.Close()
	folder := t.TempDir()
	app := "from pheromone import function, main\n\n@function\ndef greet(ctx, objects):\n    if not objects[0].data:\n        raise ValueError('nobody')\n" +
		"    print('greeting')\n    ctx.output('hello ' + objects[0].text)\n\nmain()\n"
	if err := os.WriteFile(filepath.Join(folder, "app.py"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	packed, err := client.Pack(folder, client.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UploadArtifact(t.Context(), "hello", packed); err != nil {
		t.Fatal(err)
	}
	manifest := "apiVersion: pheromone/v1\napp: hello\nfunctions: {greet: {runtime: process, command: [python3, app.py], retry: {max_attempts: 1}}}\n"
	if _, err := c.Apply(t.Context(), "hello", []byte(manifest), client.ApplyOptions{Artifact: packed.Sum}); err != nil {
		t.Fatal(err)
	}
	out, state := python(t, t.TempDir(), "-c", `
import sys
from pheromone_client import Client, Error
with Client(sys.argv[1]) as client:
    result = client.invoke("hello", "greet", "Ada", wait=25)
    assert result["outputs"][0]["data"] == b"hello Ada", result
    assert client.session("hello", result["session"])["status"] == "completed"
    assert client.cancel("hello", result["session"])["status"] == "completed"
    try:
        client.invoke("hello", "greet", "", wait=25)
    except Error as e:
        assert e.code == "session_failed" and "nobody" in e.message and e.session, (e.code, e.message)
    else:
        raise AssertionError("a failure was not told")
    assert "greeting" in [line["text"] for line in client.logs("hello", "greet")]
`, n.URL())
	if !state.Success() {
		t.Fatalf("%s\n%s", state, out)
	}
}
