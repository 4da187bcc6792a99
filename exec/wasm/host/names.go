package host

import (
	"fmt"
	"slices"
	"strings"
)

// translate returns the number that an instance gives to each function of the
// module: names are the functions in the order of the first instance, by which the
// node numbers them, said is what this instance registers. A program may register
// in another order each time it starts, as one does that goes over a map in Go; it
// may not register others. The result is nil if the numbers are the same.
func translate(names, said []string) ([]uint32, error) {
	if slices.Equal(names, said) {
		return nil, nil
	}
	numbers := make(map[string]uint32, len(said))
	for n, name := range said {
		numbers[name] = uint32(n)
	}
	order := make([]uint32, len(names))
	var missing []string
	for n, name := range names {
		number, ok := numbers[name]
		if !ok {
			missing = append(missing, name)
		}
		order[n] = number
	}
	var more []string
	for _, name := range said {
		if !slices.Contains(names, name) {
			more = append(more, name)
		}
	}
	var differs []string
	if len(missing) > 0 {
		differs = append(differs, fmt.Sprintf("does not register the functions %q", missing))
	}
	if len(more) > 0 {
		differs = append(differs, fmt.Sprintf("also registers the functions %q", more))
	}
	if len(differs) > 0 {
		return nil, fault("an instance of it registers others than the first one: it " + strings.Join(differs, " and "))
	}
	return order, nil
}
