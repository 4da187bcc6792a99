package leader

import (
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// MailBounds bounds what a leader keeps of messages to other shards. A field that
// is 0 stands for its default.
type MailBounds struct {
	// Messages and Bytes bound what is in memory; each receiver may have one message
	// beyond them. Defaults 1024 and 16 MiB. A receiver keeps marks of at most half as
	// many messages of each sender, and as many again for each term that ends while
	// the same message is not acknowledged.
	Messages, Bytes int
	// Outbox is how many messages may wait in the store before what would add to them
	// is held up. Default 100,000.
	Outbox int
}

func (b MailBounds) withDefaults() MailBounds {
	if b.Messages == 0 {
		b.Messages = 1024
	}
	if b.Bytes == 0 {
		b.Bytes = 16 << 20
	}
	if b.Outbox == 0 {
		b.Outbox = 100_000
	}
	return b
}

// route is the messages to one shard.
type route struct {
	to spec.ShardID
	// letters are the messages in memory, in sequence, from the first that is not
	// acknowledged on. The ones behind it stay until it is, acknowledged or not: so
	// their number bounds the marks that the receiver keeps.
	letters []*letter
	next    uint64 // the messages from here on are in the store only
	last    uint64 // the newest message; below next if all are in memory
	need    int    // size of the first that is in the store only; 0 if it is not known
	bytes   int
	waiting int // letters that are to be sent

	flights  int
	failures uint32      // deliveries that failed since one did not
	retry    time.Time   // after failures: when the next one may be tried
	timer    *time.Timer // for retries
}

// letter is a message in memory.
type letter struct {
	sequence uint64
	mail     *store.Mail // nil once it is delivered
	size     int
	state    letterState
	probe    bool
	tries    uint32
	due      time.Time // when it may be sent, after a delivery that failed
}

type letterState uint8

const (
	letterWaits letterState = iota
	letterFlies
	letterDelivered // and not acknowledged: its key is in the store still
	letterAcknowledged
)

// ready returns the first letter that may be sent, or else when one may.
func (l *route) ready(now time.Time) (x *letter, due time.Time) {
	for _, x := range l.letters {
		if x.state != letterWaits {
			continue
		}
		if !now.Before(x.due) {
			return x, now
		}
		if due.IsZero() || x.due.Before(due) {
			due = x.due
		}
	}
	return nil, due
}
