package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A greeting is magic, version, channel, and the cluster's id, the node's name, the
// id of its process and a nonce, each with a byte for its length; the nonce is
// empty if the node has no token (token.go). The answer is a byte, 0 for taken, else
// a reason, and then a text with two bytes for its length.
const (
	magic   = "PHRM"
	version = 3
	// textMost bounds the text of a refusal.
	textMost = 1 << 10
)

type greeting struct {
	channel Channel
	cluster string
	node    string
	process string
	nonce   string
}

// Reason says why a connection was not taken.
type Reason byte

const (
	ReasonVersion Reason = iota + 1 // the nodes speak different versions of the protocol
	ReasonCluster                   // they belong to different clusters
	ReasonName                      // they have the same name
	ReasonSelf                      // the address is the caller's own
	ReasonToken                     // they do not have the same token
	ReasonEarly                     // one of them does not belong to the cluster yet
)

// Refusal is the answer of a node that does not take a connection.
type Refusal struct {
	Reason  Reason
	Message string
}

func (r *Refusal) Error() string { return r.Message }

var errNoGreeting = errors.New("it is no node of pheromone that calls")

// append encodes the greeting.
func (g *greeting) append(out []byte) ([]byte, error) {
	out = append(append(out, magic...), version, byte(g.channel))
	for _, part := range []string{g.cluster, g.node, g.process, g.nonce} {
		if len(part) > 255 {
			return nil, fmt.Errorf("the names of cluster %q and node %q are too long", g.cluster, g.node)
		}
		out = append(append(out, byte(len(part))), part...)
	}
	return out, nil
}

func readGreeting(from io.Reader) (g greeting, err error) {
	var head [len(magic) + 2]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return g, err
	}
	if string(head[:len(magic)]) != magic {
		return g, errNoGreeting
	}
	if v := head[len(magic)]; v != version {
		return g, &Refusal{ReasonVersion, fmt.Sprintf("it speaks version %d of the protocol between nodes, this node version %d: bring both to one release", v, version)}
	}
	g.channel = Channel(head[len(magic)+1])
	for _, part := range []*string{&g.cluster, &g.node, &g.process, &g.nonce} {
		if *part, err = readShort(from); err != nil {
			return g, err
		}
	}
	return g, nil
}

func readShort(from io.Reader) (string, error) {
	var size [1]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return "", err
	}
	text := make([]byte, size[0])
	_, err := io.ReadFull(from, text)
	return string(text), err
}

// writeTaken says that the connection is taken; proof is empty without a token.
func writeTaken(to io.Writer, proof []byte) error {
	_, err := to.Write(append([]byte{0}, proof...))
	return err
}

func (r *Refusal) write(to io.Writer) error {
	text := r.Message[:min(len(r.Message), textMost)]
	out := binary.BigEndian.AppendUint16([]byte{byte(r.Reason)}, uint16(len(text)))
	_, err := to.Write(append(out, text...))
	return err
}

// readAnswer returns nil if the connection is taken, else the *Refusal.
func readAnswer(from io.Reader) error {
	var reason [1]byte
	if _, err := io.ReadFull(from, reason[:]); err != nil {
		return fmt.Errorf("it did not answer the greeting: %w", err)
	}
	if reason[0] == 0 {
		return nil
	}
	var size [2]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return fmt.Errorf("it did not say why it refuses: %w", err)
	}
	text := make([]byte, min(int(binary.BigEndian.Uint16(size[:])), textMost))
	if _, err := io.ReadFull(from, text); err != nil {
		return fmt.Errorf("it did not say why it refuses: %w", err)
	}
	return &Refusal{Reason(reason[0]), string(text)}
}
