package faultnet

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// greetingWait bounds how long a caller may take to say who it is.
	greetingWait = 10 * time.Second
	dialWait     = 5 * time.Second
	// packetBytes is how much of a stream is delayed or lost at once.
	packetBytes = 16 << 10
	// inFlight bounds the packets that are on their way on a connection: then its
	// sender has to wait, as for a full window.
	inFlight = 256
	// resendAfter is what a lost packet costs, as the systems' shortest wait.
	resendAfter = 200 * time.Millisecond
	// breaks is the share of losses that break the connection.
	breaks = 0.02
)

func (f *front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		if !f.network.keep(conn) {
			_ = conn.Close()
			return
		}
		f.network.tasks.Go(func() { f.serve(conn) })
	}
}

// serve carries one connection.
func (f *front) serve(conn net.Conn) {
	defer f.network.drop(conn)
	_ = conn.SetReadDeadline(time.Now().Add(greetingWait))
	greeting, caller := readGreeting(conn)
	_ = conn.SetReadDeadline(time.Time{})
	target, err := net.DialTimeout("tcp", f.target, dialWait)
	if err != nil {
		return
	}
	defer f.network.drop(target)
	if !f.network.keep(target) {
		return
	}
	there := &flow{network: f.network, way: pair{caller, f.node}, from: io.MultiReader(bytes.NewReader(greeting), conn), to: target}
	back := &flow{network: f.network, way: pair{f.node, caller}, from: target, to: conn}
	ended := make(chan struct{})
	var once sync.Once
	abort := func() { once.Do(func() { close(ended) }) }
	var both sync.WaitGroup
	for _, w := range []*flow{there, back} {
		w.ended, w.abort = ended, abort
		both.Go(w.run)
	}
	go func() {
		both.Wait()
		abort()
	}()
	<-ended // both sides are through, or the connection broke
	_ = conn.Close()
	_ = target.Close()
	both.Wait()
}

// readGreeting reads what a node says first, and whose name it says. Who says
// something else has no name.
func readGreeting(conn io.Reader) (raw []byte, caller string) {
	var all bytes.Buffer
	from := io.TeeReader(conn, &all)
	var head [6]byte // PHRM, the version, the channel
	if _, err := io.ReadFull(from, head[:]); err != nil || string(head[:4]) != "PHRM" {
		return all.Bytes(), ""
	}
	var text []byte
	for range 2 { // the cluster, and the node's name
		var size [1]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return all.Bytes(), ""
		}
		text = make([]byte, size[0])
		if _, err := io.ReadFull(from, text); err != nil {
			return all.Bytes(), ""
		}
	}
	return all.Bytes(), string(text)
}

// flow is one direction of a connection.
type flow struct {
	network *Network
	way     pair
	from    io.Reader
	to      net.Conn
	ended   <-chan struct{} // the connection is over
	abort   func()          // ends it
	broken  bool            // the stream ended in an error
}

// packet is some bytes and when they arrive.
type packet struct {
	data []byte
	due  time.Time
}

// run carries bytes until the stream ends. A fault of one direction that breaks
// the connection ends the other, too.
func (w *flow) run() {
	packets := make(chan packet, inFlight)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(packets)
		w.read(packets)
	})
	defer reading.Wait()
	for p := range packets {
		if !w.deliver(p) {
			w.abort()
			return
		}
	}
	// The end of the stream has the same way to go.
	if tcp, ok := w.to.(*net.TCPConn); !w.deliver(packet{}) || w.broken || !ok || tcp.CloseWrite() != nil {
		w.abort()
	}
}

func (w *flow) read(packets chan<- packet) {
	for {
		data := make([]byte, packetBytes)
		n, err := w.from.Read(data)
		if n > 0 {
			f, _ := w.network.fault(w.way)
			due := time.Now().Add(f.Delay)
			if f.Jitter > 0 {
				due = due.Add(rand.N(f.Jitter))
			}
			for f.Loss > 0 && rand.Float64() < f.Loss {
				if rand.Float64() < breaks {
					w.abort()
					return
				}
				due = due.Add(resendAfter)
			}
			select {
			case packets <- packet{data[:n], due}:
			case <-w.ended:
				return
			}
		}
		if err != nil {
			w.broken = !errors.Is(err, io.EOF)
			return
		}
	}
}

// deliver waits until a packet may arrive, and has it arrive.
func (w *flow) deliver(p packet) bool {
	for {
		f, changed := w.network.fault(w.way)
		if f.Refuse {
			return false
		}
		wait := time.Until(p.due)
		if !f.Cut && wait <= 0 {
			if len(p.data) == 0 {
				return true
			}
			if f.BytesPerSecond > 0 && !w.pause(time.Duration(len(p.data))*time.Second/time.Duration(f.BytesPerSecond)) {
				return false
			}
			_, err := w.to.Write(p.data)
			return err == nil
		}
		var due <-chan time.Time
		if !f.Cut {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-changed:
		case <-w.ended:
			return false
		}
	}
}

func (w *flow) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.ended:
		return false
	}
}
