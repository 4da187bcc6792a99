package client

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"strconv"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// ListOptions says which objects of a bucket to list.
type ListOptions struct {
	Session  spec.SessionID // its objects, instead of the key-value objects
	Prefix   string
	After    string // the next page's place, from an earlier list
	PageSize int    // 1 to 1000; the server's default if 0
}

// List yields the objects of a bucket in key order, without their bytes, and
// fetches pages as it goes on. An error is the last thing it yields.
func (c *Client) List(ctx context.Context, app spec.AppName, bucket spec.BucketName, o ListOptions) iter.Seq2[wire.Object, error] {
	return pages(o.After, func(after string) ([]wire.Object, string, error) {
		list, err := c.ListPage(ctx, app, bucket, ListOptions{Session: o.Session, Prefix: o.Prefix, After: after, PageSize: o.PageSize})
		return list.Items, list.Next, err
	})
}

// ListPage returns one page of List; its Next, as After, leads to the next one.
func (c *Client) ListPage(ctx context.Context, app spec.AppName, bucket spec.BucketName, o ListOptions) (wire.ObjectList, error) {
	r := get(fmt.Sprintf("list %s", bucket), route("apps", string(app), "buckets", string(bucket), "objects"), nil)
	if o.Session != "" {
		r.path = route("apps", string(app), "sessions", string(o.Session), "buckets", string(bucket), "objects")
		r = r.at(spec.SessionSlot(app, o.Session))
	}
	r.query = pageQuery(o.After, o.PageSize)
	if o.Prefix != "" {
		r.query.Set("prefix", o.Prefix)
	}
	var list wire.ObjectList
	_, err := c.call(ctx, r, &list)
	return list, err
}

// SessionsOptions says which sessions to list.
type SessionsOptions struct {
	Status   wire.SessionStatus // empty: any
	Function spec.FunctionName  // only sessions that it ran in
	After    string
	PageSize int
}

// Sessions yields an app's sessions, newest first, and fetches pages as it goes on.
func (c *Client) Sessions(ctx context.Context, app spec.AppName, o SessionsOptions) iter.Seq2[wire.Session, error] {
	return pages(o.After, func(after string) ([]wire.Session, string, error) {
		query := pageQuery(after, o.PageSize)
		if o.Status != "" {
			query.Set("status", string(o.Status))
		}
		if o.Function != "" {
			query.Set("function", string(o.Function))
		}
		var list wire.SessionList
		_, err := c.call(ctx, get("list sessions of "+string(app), route("apps", string(app), "sessions"), query), &list)
		return list.Items, list.Next, err
	})
}

func pageQuery(after string, size int) url.Values {
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	if size > 0 {
		query.Set("limit", strconv.Itoa(size))
	}
	return query
}

func pages[T any](after string, fetch func(after string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for {
			items, next, err := fetch(after)
			if err != nil {
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if next == after {
				yield(none, spec.Errorf(spec.CodeInternal, "the server's pages don't go on after %q", after))
				return
			}
			after = next
		}
	}
}
