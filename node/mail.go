package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// deliverTries is how many nodes are asked to take a message before it goes back
// to its outbox, which tries again later.
const deliverTries = 3

// Deliver implements leader.Router. Nodes that did not take the message may be
// followed by others; any other answer is the outbox's.
func (n *Node) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	var avoid string
	for try := 1; ; try++ {
		node, err := n.cfg.Name, error(nil)
		if n.network != nil {
			node, err = n.place(to, false, avoid)
		}
		if err == nil {
			err = n.deliverAt(ctx, node, to, &m)
		}
		passed := errors.Is(err, leader.ErrNotTaken) || errors.Is(err, peer.ErrNotSent)
		if err == nil || !passed || try == deliverTries || n.network == nil {
			return err
		}
		avoid = node
	}
}

// deliverAt hands a message to the leader of a shard on one node. A blob of its
// object is read from the store of this node, which leads the sender.
func (n *Node) deliverAt(ctx context.Context, node string, to spec.ShardID, m *leader.Mail) error {
	var blob io.Reader
	if b := m.Object.Blob; b != nil {
		r := n.db.OpenBlob(m.From, m.App, *b)
		blob = r
		if node == n.cfg.Name {
			defer func() { _ = r.Close() }()
		} // else the connection may read from it a moment longer; it holds nothing
	}
	if node != n.cfg.Name {
		_, _, err := askAt(ctx, n, &n.questions.mail, node, to, nothing{}, mailBody(m, blob))
		return err
	}
	l := n.local(to)
	if l == nil {
		return errNotHere(to, n.cfg.Name)
	}
	return l.leader.TakeMail(ctx, *m, blob)
}

// mailBody is a message as it travels: its length, the message, and the bytes of
// its object's blob if it has one.
func mailBody(m *leader.Mail, blob io.Reader) io.Reader {
	message := leader.AppendMail(nil, m)
	head := io.MultiReader(bytes.NewReader(binary.AppendUvarint(nil, uint64(len(message)))), bytes.NewReader(message))
	if blob == nil {
		return head
	}
	return io.MultiReader(head, blob)
}

// readMail reads what mailBody has written, and returns the rest as the blob.
func readMail(body io.Reader) (leader.Mail, io.Reader, error) {
	if body == nil {
		return leader.Mail{}, nil, spec.Errorf(spec.CodeInvalid, "a message came without its body")
	}
	r := bufio.NewReaderSize(body, 32<<10)
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return leader.Mail{}, nil, spec.Errorf(spec.CodeInvalid, "a message came that is cut short: %w", err)
	}
	if size > leader.MaxMailBytes {
		return leader.Mail{}, nil, spec.Errorf(spec.CodeTooLarge, "a message of %d bytes came, at most %d are taken", size, leader.MaxMailBytes)
	}
	var message bytes.Buffer // which grows as the bytes come
	if _, err := io.CopyN(&message, r, int64(size)); err != nil {
		return leader.Mail{}, nil, spec.Errorf(spec.CodeInvalid, "a message came that is cut short: %w", err)
	}
	m, err := leader.DecodeMail(message.Bytes())
	if err != nil || m.Object.Blob == nil {
		// The end of the body is read, so that the connection can be used again.
		if n, _ := r.Read(make([]byte, 1)); n > 0 && err == nil {
			err = spec.Errorf(spec.CodeInvalid, "message %d goes on behind its end", m.Sequence)
		}
		return m, nil, err
	}
	return m, r, nil
}

// mailQuestion is what a shard is asked to take. It is harmless to repeat, which is
// left to the outbox.
func mailQuestion() question[nothing, nothing] {
	return question[nothing, nothing]{
		method: "shard.mail",
		on: func(ctx context.Context, l *leader.Leader, _ nothing, body io.Reader) (nothing, io.ReadCloser, error) {
			m, blob, err := readMail(body)
			if err != nil {
				return nothing{}, nil, err
			}
			return nothing{}, nil, l.TakeMail(ctx, m, blob)
		},
	}
}
