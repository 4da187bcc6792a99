package host

import (
	"slices"
	"testing"
)

func TestAnInstanceIsToldFunctionsByItsOwnNumbers(t *testing.T) {
	for _, c := range []struct {
		does        string
		first, said []string
		want        []uint32
		fault       string
	}{
		{"registers the same", []string{"a", "b"}, []string{"a", "b"}, nil, ""},
		{"registers in another order", []string{"a", "b", "c"}, []string{"c", "a", "b"}, []uint32{1, 2, 0}, ""},
		{"leaves one out", []string{"a", "b"}, []string{"b"}, nil, `an instance of it registers others than the first one: it does not register the functions ["a"]`},
		{"has one more", []string{"a"}, []string{"b", "a"}, nil, `an instance of it registers others than the first one: it also registers the functions ["b"]`},
		{"has another one", []string{"a", "b", "c"}, []string{"c", "d", "a"}, nil,
			`an instance of it registers others than the first one: it does not register the functions ["b"] and also registers the functions ["d"]`},
	} {
		t.Run(c.does, func(t *testing.T) {
			got, err := translate(c.first, c.said)
			if !slices.Equal(got, c.want) {
				t.Errorf("numbers %v, want %v", got, c.want)
			}
			if err == nil && c.fault != "" || err != nil && err.Error() != c.fault {
				t.Errorf("fault %v, want %q", err, c.fault)
			}
		})
	}
}
