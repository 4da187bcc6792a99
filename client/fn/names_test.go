package fn

import (
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

func TestNamesAndBoundsAreThoseOfTheManifest(t *testing.T) {
	if outputBucket != string(spec.OutputBucket) || maxKeyBytes != spec.MaxKeyBytes || maxNameBytes != spec.MaxNameBytes {
		t.Errorf("%q, %d, %d differ from package spec", outputBucket, maxKeyBytes, maxNameBytes)
	}
	if maxContentTypeBytes != spec.MaxContentTypeBytes || maxMetaFields != spec.MaxMetaFields || maxMetaBytes != spec.MaxMetaBytes {
		t.Errorf("a content type of %d bytes, %d metadata fields, %d bytes of metadata differ from package spec", maxContentTypeBytes, maxMetaFields, maxMetaBytes)
	}
	if minSessionTimeout != spec.MinSessionTimeout || maxSessionTimeout != spec.MaxSessionTimeout {
		t.Errorf("a child session runs for %s to %s, not as in package spec", minSessionTimeout, maxSessionTimeout)
	}
	if spec.Inbox("f") != "@f" {
		t.Errorf("the inbox of f is %q", spec.Inbox("f"))
	}
}
