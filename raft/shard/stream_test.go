package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAStreamGoesOnWhereItsConnectionsBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &taker{}
		l := newCable(t, k)
		l.cut = 256 << 10
		chunks := chunksOf(12, 1<<20)
		_, s := l.open(t)
		since := time.Now()
		if err := sendAll(s, chunks); err != nil {
			t.Fatal(err)
		}
		s.Close()
		k.check(t, chunks)
		if took := time.Since(since); took > time.Duration(l.dialed)*2*retryLeast {
			t.Errorf("%v over %d connections: what comes further does not wait", took, l.dialed)
		}
		if l.dialed < 12 || l.sent > 12<<20*6/5 {
			t.Errorf("%d connections with %d bytes for a snapshot of 12 MiB", l.dialed, l.sent)
		}
		synctest.Wait()
		if n := len(l.receiver.mu.incoming); n != 0 {
			t.Errorf("%d streams are kept that have ended", n)
		}
	})
}

func TestAStreamOutlivesAMinuteOfSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &taker{slow: time.Second}
		l := newCable(t, k)
		chunks := chunksOf(9, 1<<20)
		_, s := l.open(t)
		sent := make(chan error, 1)
		go func() { sent <- sendAll(s, chunks) }()
		<-time.After(4 * time.Second)
		l.set(func() { l.dark = true })
		<-time.After(time.Minute)
		if k.count() >= len(chunks) {
			t.Fatal("the snapshot came through the dark")
		}
		l.set(func() { l.dark = false })
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		s.Close()
		k.check(t, chunks)
		if l.sent > 9<<20*6/5+streamWindow<<20 {
			t.Errorf("%d bytes were sent for a snapshot of 9 MiB", l.sent)
		}
	})
}

func TestAStreamWhoseReceiverStaysAwayEndsOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &taker{}
		l := newCable(t, k)
		chunks := chunksOf(9, 1<<20)
		_, s := l.open(t)
		if err := sendAll(s, chunks[:2]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.set(func() { l.dark = true })
		since := time.Now()
		err := sendAll(s, chunks[2:])
		if took := time.Since(since); err == nil || took < streamAway-streamPulse || took > streamAway+10*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		s.Close()
		<-time.After(streamKept)
		synctest.Wait()
		if n := len(l.receiver.mu.incoming); n != 0 {
			t.Errorf("%d streams are kept without a sender", n)
		}
		k.check(t, chunks[:2])
	})
}

func TestAChunkIsTakenOnceWhenItsConnectionBreaksMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &taker{slow: 30 * time.Second}
		l := newCable(t, k)
		chunks := chunksOf(2, 1<<20)
		_, s := l.open(t)
		since := time.Now()
		sent := make(chan error, 1)
		go func() { sent <- sendAll(s, chunks) }()
		for _, at := range []time.Duration{15, 7, 23} { // within the first, again, within the second
			<-time.After(at * time.Second)
			l.breakAll()
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(since); took < 60*time.Second {
			t.Errorf("the snapshot counts as sent after %v, and the second chunk is taken after a minute", took)
		}
		s.Close()
		k.check(t, chunks)
		if l.dialed != 4 {
			t.Errorf("%d connections, one broke thrice", l.dialed)
		}
	})
}

func TestABusyReceiverKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &taker{slow: 3 * time.Minute}
		l := newCable(t, k)
		chunks := chunksOf(2, 1<<20)
		_, s := l.open(t)
		if err := sendAll(s, chunks); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour) // nothing to say
		s.Close()
		k.check(t, chunks)
		if l.dialed != 1 {
			t.Errorf("%d connections, none broke", l.dialed)
		}
	})
}

func TestAStreamEndsWhenTheReceiverWillNotHaveIt(t *testing.T) {
	for _, c := range []struct {
		name string
		what func(t *testing.T, l *cable, k *taker, from *transport)
		want string
	}{
		{"a chunk is refused", func(_ *testing.T, _ *cable, k *taker, _ *transport) {
			k.mu.Lock()
			k.refuse = 3
			k.mu.Unlock()
		}, "not taken"},
		{"the receiver starts again", func(t *testing.T, l *cable, k *taker, _ *transport) {
			_ = l.receiver.Close()
			l.mu.Lock()
			l.start(t, k)
			l.mu.Unlock()
		}, "not known"},
		{"the shard is closed", func(_ *testing.T, l *cable, _ *taker, from *transport) {
			l.set(func() { l.dark = true })
			from.endStreams(streamed)
		}, "closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &taker{}
				l := newCable(t, k)
				chunks := chunksOf(20, 1<<20)
				from, s := l.open(t)
				if err := sendAll(s, chunks[:2]); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				c.what(t, l, k, from)
				since := time.Now()
				err := sendAll(s, chunks[2:])
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("sent: %v", err)
				}
				s.Close()
				if took := time.Since(since); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
				if n := k.count(); n > 4 {
					t.Errorf("%d chunks were handed on, the fourth was the last", n)
				}
			})
		})
	}
}

func TestAStreamThatIsWrongIsNotTaken(t *testing.T) {
	chunk, err := chunksOf(9, 100)[0].Marshal()
	if err != nil {
		t.Fatal(err)
	}
	last, err := chunksOf(1, 100)[0].Marshal()
	if err != nil {
		t.Fatal(err)
	}
	size := len(chunk)
	for _, c := range []struct {
		name    string
		wrong   func(r *raw) // after one chunk and half of the next one
		answers []string
		goesOn  bool
	}{
		{"a gap", func(r *raw) { r.part(size+60, 0, chunk[60:]) }, []string{"closed"}, true},
		{"a duplicate", func(r *raw) { r.part(0, 0, chunk) }, []string{"closed"}, true},
		{"an empty part", func(r *raw) { r.part(size+50, 4, nil) }, []string{"closed"}, true},
		{"another kind of frame", func(r *raw) { r.send(frameBatch, 1) }, []string{"closed"}, true},
		{"a part that is damaged", func(r *raw) {
			frame := binary.BigEndian.AppendUint64(make([]byte, frameHeader), uint64(size+50))
			frame = append(binary.BigEndian.AppendUint32(frame, uint32(size-60)), chunk[50:60]...)
			sealFrame(framePart, frame)
			frame[len(frame)-1]++
			_, _ = r.conn.Write(frame)
		}, []string{"closed"}, true},
		{"a frame that is too long", func(r *raw) {
			_, _ = r.conn.Write([]byte{0, 255, 255, 255, framePart, 0, 0, 0, 0})
		}, []string{"closed"}, true},
		{"silence", func(*raw) { <-time.After(streamSilence + time.Second) }, []string{"closed"}, true},
		{"a chunk that is too long", func(r *raw) { r.part(size+50, chunkMost, []byte{1}) }, []string{"over: ", "closed"}, false},
		{"a chunk that can't be read", func(r *raw) { r.part(size+50, 0, []byte{255, 255}) }, []string{"over: ", "closed"}, false},
		{"more behind the last chunk", func(r *raw) {
			r.part(size+50, 0, chunk[50:])
			r.expect(fmt.Sprint("taken ", 2*size))
			r.part(2*size, 0, last)
			r.expect(fmt.Sprint("taken ", 2*size+len(last)))
			r.part(2*size+len(last), 0, last)
		}, []string{"over: ", "closed"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &taker{}
				l := newCable(t, k)
				r := l.raw(t).opened('a', 1)
				r.expect("taken 0")
				r.part(0, 0, chunk)
				r.expect(fmt.Sprint("taken ", size))
				r.part(size, size-50, chunk[:50])
				c.wrong(r)
				for _, want := range c.answers {
					r.expect(want)
				}
				r = l.raw(t).opened('a', 0)
				if !c.goesOn {
					r.expect("over: ")
					return
				}
				r.expect(fmt.Sprint("taken ", size+50))
				r.part(size+50, 0, chunk[50:])
				r.expect(fmt.Sprint("taken ", 2*size))
				r.send(frameEnd)
				r.expect("closed")
				if n := k.count(); n != 2 {
					t.Errorf("%d chunks were taken, want 2", n)
				}
			})
		})
	}
}

func TestOnlyStreamsThatAreThereGoOnAndTheirNumberIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCable(t, &taker{})
		l.raw(t).opened('a', 0).expect("over: the stream is not known")
		short := l.raw(t)
		short.send(frameOpen, 1, 2, 3)
		short.expect("closed")
		all := make([]*raw, streamsMost)
		for i := range all {
			all[i] = l.raw(t).opened(byte(i), 1)
			all[i].expect("taken 0")
		}
		l.raw(t).opened(3, 1).expect("over: the stream is there already")
		l.raw(t).opened(100, 1).expect("over: 64 streams")
		_ = all[5].conn.Close()
		_ = all[6].conn.Close()
		synctest.Wait()
		l.raw(t).opened(6, 0).expect("taken 0")
		l.raw(t).opened(101, 1).expect("taken 0")
		l.raw(t).opened(5, 0).expect("over: the stream is not known")
		again := l.raw(t).opened(7, 0)
		again.expect("taken 0")
		all[7].expect("closed")
	})
}

func TestAReceiverThatLiesEndsTheStreamAndNoMoreThanTheWindowIsKept(t *testing.T) {
	taken := func(at uint64) func(*raw) {
		return func(r *raw) { r.send(frameTaken, binary.BigEndian.AppendUint64(nil, at)...) }
	}
	for _, c := range []struct {
		name   string
		answer func(r *raw)
		within time.Duration
	}{
		{"it has more than there is", taken(1 << 40), 0},
		{"it has less than it had", func(r *raw) { taken(2 << 20)(r); taken(1 << 20)(r) }, 0},
		{"a frame that makes no sense", func(r *raw) { r.send(frameTaken, 1) }, 0},
		{"it is there and takes nothing", func(r *raw) {
			for sendSmall(r.conn, frameAlive, nil) == nil {
				<-time.After(time.Second)
			}
		}, streamStuck + time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &cable{accept: make(chan net.Conn)}
				var liar sync.WaitGroup
				defer liar.Wait()
				liar.Go(func() {
					conn, _ := l.Accept()
					r := &raw{t, conn, newFrameReader(conn)}
					_, _, _ = r.frames.next(0, 1<<10)
					taken(0)(r)
					_ = conn.SetReadDeadline(time.Time{})
					go func() { _, _ = io.Copy(io.Discard, conn) }()
					<-time.After(time.Second)
					c.answer(r)
				})
				_, s := l.open(t)
				chunks := chunksOf(12, 1<<20)
				since, put := time.Now(), 0
				var err error
				for ; err == nil; put++ {
					err = s.SendChunk(chunks[put])
				}
				if took := time.Since(since); !errors.Is(err, errStreamOver) || took > c.within+2*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				if put > 2*streamWindow {
					t.Errorf("%d chunks are kept for a receiver that takes none", put)
				}
				s.Close()
			})
		})
	}
}

func TestAStreamIsNotBegunOfAReplicaThatHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCable(t, &taker{})
		from, s := l.open(t)
		defer s.Close()
		delete(from.host.mu.shards, streamed) // as Shard.Close does, which found no stream of it
		if err := s.SendChunk(chunksOf(1, 10)[0]); !errors.Is(err, errClosed) {
			t.Errorf("the first chunk is sent: %v", err)
		}
	})
}
