package python_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

// startTests are the tests of Context.start that need no node.
const startTests = `
import unittest
from datetime import timedelta

from pheromone import Context, Object, Refused


class Nowhere:
    """A connection that nothing may reach."""

    max_object = 10


class Start(unittest.TestCase):
    def test_what_breaks_a_bound_is_refused_before_it_is_sent(self):
        ctx = Context(Nowhere(), 1)
        for kind, args, options in [
            (Refused, ("", b""), {}),
            (Refused, ("f" * 64, b""), {}),
            (Refused, ("f", b"12345678901"), {}),
            (Refused, ("f", b""), {"into": ""}),
            (Refused, ("f", b""), {"into": "b", "key": ""}),
            (Refused, ("f", b""), {"into": "b", "key": "k" * 1025}),
            (Refused, ("f", b""), {"timeout": 0}),
            (Refused, ("f", b""), {"timeout": -1}),
            (Refused, ("f", b""), {"timeout": timedelta(days=366)}),
            (Refused, ("f", b""), {"content_type": "c" * 257}),
            (Refused, ("f", b""), {"meta": {"m": "v" * (16 << 10)}}),
            (Refused, ("f", b""), {"meta": {"m%d" % i: "" for i in range(65)}}),
            (TypeError, ("f", b""), {"key": "k"}),
            (TypeError, ("f", {}), {}),
            (TypeError, (1, b""), {}),
            (TypeError, ("f", b""), {"output": True}),
            (TypeError, ("f", b""), {"deliver_after": 1}),
        ]:
            with self.subTest(args=args, options=options), self.assertRaises(kind):
                ctx.start(*args, **options)

    def test_an_object_for_tests_can_stand_for_a_deletion(self):
        self.assertTrue(Object(b"", deleted=True).deleted)
        self.assertFalse(Object(b"").deleted)
`

func TestAStartIsCheckedBeforeItIsSent(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "test_start.py"), []byte(startTests), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, state := python(t, dir, "-m", "unittest", "-v"); !state.Success() {
		t.Fatalf("%s\n%s", state, out)
	}
}

func TestBoundsAreThoseOfTheManifest(t *testing.T) {
	const print = "import pheromone as p; print(p._CONTENT_TYPE_BYTES, p._META_FIELDS, p._META_BYTES)"
	out, state := python(t, t.TempDir(), "-c", print)
	if want := fmt.Sprintln(spec.MaxContentTypeBytes, spec.MaxMetaFields, spec.MaxMetaBytes); !state.Success() || out != want {
		t.Errorf("%s: %q, package spec has %q", state, out, want)
	}
}
