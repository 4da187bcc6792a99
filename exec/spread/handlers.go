package spread

import (
	"context"
	"io"
)

// Handler answers a call of another node: args reads its arguments, body is what it
// streams, and what is returned is the result and the stream that answers.
type Handler func(ctx context.Context, args func(into any) error, body io.Reader) (result any, answer io.ReadCloser, err error)

// Handlers returns what other nodes may ask for, by method.
func (rt *Runtime) Handlers() map[string]Handler {
	return map[string]Handler{
		MethodRun: func(_ context.Context, args func(into any) error, body io.Reader) (any, io.ReadCloser, error) {
			var in runArgs
			if err := args(&in); err != nil {
				return nil, nil, err
			}
			answer, err := rt.host(&in, body)
			return nil, answer, err
		},
		MethodLoad: func(_ context.Context, args func(into any) error, _ io.Reader) (any, io.ReadCloser, error) {
			var in loadArgs
			if err := args(&in); err != nil {
				return nil, nil, err
			}
			res, err := rt.load(&in)
			return res, nil, err
		},
		MethodInputs: func(ctx context.Context, args func(into any) error, _ io.Reader) (any, io.ReadCloser, error) {
			var in inputsArgs
			if err := args(&in); err != nil {
				return nil, nil, err
			}
			answer, err := rt.serveInputs(ctx, &in)
			return nil, answer, err
		},
	}
}
