package linear

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// TestPagesOfAListMissAndRepeatNothingWhileObjectsComeAndGo: what is there during
// the whole listing is in it once, in key order, whatever is written meanwhile and
// though the node is killed between two pages.
func TestPagesOfAListMissAndRepeatNothingWhileObjectsComeAndGo(t *testing.T) {
	node := start(t, 3)
	c := patient(t, node)
	ctx := bounded(t, 5*time.Minute)
	var stable []spec.Key
	for n := range 60 {
		stable = append(stable, spec.Key(fmt.Sprintf("page/%03d", n)))
	}
	stable = append(stable, "page/", "page//", "page/ä", "page/%2F", "page/0", "page/~", "page/\U0010FFFF")
	for _, key := range append([]spec.Key{"pag", "page", "page0", "pagf", "zzz"}, stable...) {
		put(ctx, t, c, objects, key, "stays", client.PutOptions{})
	}
	slices.Sort(stable)

	stop := make(chan struct{})
	var writers sync.WaitGroup
	defer writers.Wait()
	defer sync.OnceFunc(func() { close(stop) })()
	for n := range 3 {
		writers.Go(func() {
			numbers := random(uint64(3000 + n))
			for {
				select {
				case <-stop:
					return
				default:
				}
				passing := spec.Key(fmt.Sprintf("page/%03d-%d", numbers.IntN(60), numbers.IntN(3)))
				_, _ = c.Put(ctx, app, objects, passing, strings.NewReader("passes"), client.PutOptions{})
				_, _ = c.Put(ctx, app, objects, stable[numbers.IntN(len(stable))], strings.NewReader("stays"), client.PutOptions{})
				_, _ = c.Delete(ctx, app, objects, passing, client.DeleteOptions{})
			}
		})
	}
	passed := 0
	for round, size := range []int{1, 2, 7, 7, 50, 64, 1000, 0} {
		var got []spec.Key
		for o, err := range c.List(ctx, app, objects, client.ListOptions{Prefix: "page/", PageSize: size}) {
			if err != nil {
				t.Fatal(err)
			}
			if n := len(got); n > 0 && o.Key <= got[n-1] {
				t.Fatalf("pages of %d: %q comes after %q", size, o.Key, got[n-1])
			}
			if !strings.HasPrefix(string(o.Key), "page/") {
				t.Fatalf("pages of %d: %q has another prefix", size, o.Key)
			}
			got = append(got, o.Key)
			if round == 3 && len(got) == 30 {
				node.Kill()
				node.Restart()
			}
		}
		for _, key := range stable {
			if _, ok := slices.BinarySearch(got, key); !ok {
				t.Errorf("pages of %d: %q was there all the time and is not listed", size, key)
			}
		}
		passed += len(got) - len(stable)
	}
	if passed == 0 {
		t.Error("no passing object was ever listed: the writers prove little")
	}
}
