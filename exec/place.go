package exec

import "context"

// Place makes room for an input of size bytes, to be filled with exactly these: in
// memory that the executor reads, so that they are not copied once more. It returns
// nil if there is no room.
type Place func(size int64) []byte

type placeKey struct{}

// WithPlace has a Load, or a Get, read large inputs to where place says.
func WithPlace(ctx context.Context, place Place) context.Context {
	return context.WithValue(ctx, placeKey{}, place)
}

// PlaceFor returns an empty slice with room for an input of size bytes, in the
// place that ctx carries if there is one, else nil. It is to be grown to size bytes
// at most.
func PlaceFor(ctx context.Context, size int64) []byte {
	if place, ok := ctx.Value(placeKey{}).(Place); ok {
		if room := place(size); room != nil {
			return room[:0:size]
		}
	}
	return nil
}
