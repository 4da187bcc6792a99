package peer

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Nodes with a token prove to each other that they have the same one, and never
// send it: the greeting carries a nonce; the node that is called answers it, if the
// greeting's nonce tells that the caller has a token too, with the byte challenged
// and a nonce of its own; the caller sends a proof over both nonces and the whole
// greeting, and after the byte for taken gets one back. The caller goes first, so
// that nobody without the token is given a proof to try words against.
const (
	challenged = 0xff
	nonceBytes = 32
	proofBytes = sha256.Size
)

// Who makes a proof is part of it: one that was given can't be handed back.
const (
	callerProves = "pheromone node that calls"
	calledProves = "pheromone node that is called"
)

func proof(token, who, greeting, nonce string) []byte {
	mac := hmac.New(sha256.New, []byte(token))
	for _, part := range []string{who, greeting, nonce} { // of who and nonce the length is known
		_, _ = io.WriteString(mac, part)
	}
	return mac.Sum(nil)
}

func newNonce() string {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails: it ends the process instead
	return string(nonce)
}

// prove is the caller's side, from after the greeting to the answer.
func prove(conn io.ReadWriter, token, greeting string) error {
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		return fmt.Errorf("it did not answer the greeting: %w", err)
	}
	if kind[0] == 0 {
		return &Refusal{ReasonToken, "it does not ask for the token that this node has"}
	}
	if kind[0] != challenged {
		return readAnswer(io.MultiReader(oneByte(kind[0]), conn))
	}
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(conn, nonce); err != nil {
		return fmt.Errorf("it did not answer the greeting: %w", err)
	}
	if _, err := conn.Write(proof(token, callerProves, greeting, string(nonce))); err != nil {
		return err
	}
	if err := readAnswer(conn); err != nil {
		return err
	}
	own := make([]byte, proofBytes)
	if _, err := io.ReadFull(conn, own); err != nil {
		return fmt.Errorf("it did not prove that it has the token: %w", err)
	}
	if !hmac.Equal(own, proof(token, calledProves, greeting, string(nonce))) {
		return &Refusal{ReasonToken, "it has not the token of this node"}
	}
	return nil
}

type oneByte byte

func (b oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	p[0] = byte(b)
	return 1, io.EOF
}

// challenge is the side of the node that is called, before it looks at anything
// else that the greeting says. The proof it returns is sent after the byte for taken.
func (n *Network) challenge(conn io.ReadWriter, g greeting) ([]byte, error) {
	switch {
	case n.cfg.Token == "" && g.nonce == "":
		return nil, nil
	case n.cfg.Token == "":
		return nil, &Refusal{ReasonToken, fmt.Sprintf("node %s has no join token, node %s has one: give both the same", n.cfg.Node, g.node)}
	case g.nonce == "":
		return nil, &Refusal{ReasonToken, fmt.Sprintf("node %s asks for a join token, node %s has none: give both the same", n.cfg.Node, g.node)}
	}
	nonce := newNonce()
	if _, err := conn.Write(append([]byte{challenged}, nonce...)); err != nil {
		return nil, err
	}
	theirs := make([]byte, proofBytes)
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return nil, errors.Join(errNoProof, err)
	}
	text, err := g.append(nil)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(theirs, proof(n.cfg.Token, callerProves, string(text), nonce)) {
		return nil, &Refusal{ReasonToken, fmt.Sprintf("the join token of node %s is not that of node %s: give both the same", g.node, n.cfg.Node)}
	}
	return proof(n.cfg.Token, calledProves, string(text), nonce), nil
}

var errNoProof = errors.New("it did not prove that it has the join token")
