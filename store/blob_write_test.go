package store_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/pheromone-run/pheromone/store"
)

func TestABlobThatIsDescribedFirstIsTheOneThatIsWritten(t *testing.T) {
	db := inMemory(t)
	for name, data := range map[string][]byte{
		"noise":   noise(3<<20 + 7),
		"text":    bytes.Repeat([]byte("the same again, "), 200<<10),
		"a chunk": noise(1 << 20),
	} {
		blob := db.NewBlob(data)
		if err := db.WriteBlob(t.Context(), 1, "a", blob, data); err != nil {
			t.Fatal(err)
		}
		defer db.ReleaseBlob(blob)
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
		staged, err := db.StageBlob(t.Context(), 1, "a", bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		defer db.ReleaseBlob(staged)
		staged.ID = blob.ID
		if staged != blob {
			t.Errorf("%s: described as %+v, and staged as %+v", name, blob, staged)
		}
	}
}

func TestOfABlobThatIsNotWrittenToItsEndNothingStays(t *testing.T) {
	db := inMemory(t)
	data := noise(3 << 20)
	blob := db.NewBlob(data)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := db.WriteBlob(ctx, 1, "a", blob, data); !errors.Is(err, enough) {
		t.Errorf("a blob of which nobody wants to know any more: %v", err)
	}
	if staged, err := db.Staged(1); err != nil || len(staged) != 0 {
		t.Errorf("%d are staged, %v", len(staged), err)
	}
	if _, err := db.ReadBlob(1, "a", blob); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is read: %v", err)
	}
}
