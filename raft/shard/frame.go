package shard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"
)

// A frame is length (4 bytes), kind (1), CRC-32C of the payload (4), payload.
const (
	frameHeader = 9
	// frameMost bounds a frame: a batch has entries of up to 64 MiB and some more.
	frameMost = 192 << 20
	// frameWait bounds the time between two pieces of a frame, each up to framePiece.
	frameWait  = 10 * time.Second
	framePiece = 256 << 10
)

// The kinds of frames. On a snapshot's stream, alive says that the one who sends it
// is there and has nothing else to say.
const (
	frameBatch = iota + 1 // a batch of messages
	frameOpen             // opens a stream or goes on with it: id (16), 1 for a new one
	framePart             // a part of a chunk: position (8), what is left of the chunk behind it (4), bytes
	frameAlive
	frameTaken // by the receiver: the position up to which it has the stream (8)
	frameOver  // by the receiver: the stream does not go on, why
	frameEnd   // by the sender: the stream may be forgotten
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameReader reads the frames of a connection.
type frameReader struct {
	conn    net.Conn
	r       *bufio.Reader
	payload []byte
}

func newFrameReader(conn net.Conn) *frameReader {
	return &frameReader{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
}

// next returns the next frame, which must begin within wait, unless that is 0, and
// have at most so many bytes. The payload may be used until the next call.
func (f *frameReader) next(wait time.Duration, most int) (kind byte, payload []byte, err error) {
	if cap(f.payload) > 4*framePiece {
		f.payload = nil
	}
	begin := time.Time{}
	if wait > 0 {
		begin = time.Now().Add(wait)
	}
	if err := f.conn.SetReadDeadline(begin); err != nil {
		return 0, nil, err
	}
	var header [frameHeader]byte
	if _, err := io.ReadFull(f.r, header[:1]); err != nil {
		return 0, nil, err
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(frameWait)); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(f.r, header[1:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if int64(size) > int64(most) {
		return 0, nil, fmt.Errorf("a frame of %d bytes, at most %d are taken", size, most)
	}
	if err := f.read(int(size)); err != nil {
		return 0, nil, err
	}
	if crc32.Checksum(f.payload, castagnoli) != binary.BigEndian.Uint32(header[5:]) {
		return 0, nil, errors.New("a frame with a wrong checksum")
	}
	return header[4], f.payload, nil
}

// read reads a payload. Memory grows as it comes.
func (f *frameReader) read(size int) error {
	f.payload = f.payload[:0]
	for at := 0; at < size; at = len(f.payload) {
		if err := f.conn.SetReadDeadline(time.Now().Add(frameWait)); err != nil {
			return err
		}
		f.payload = append(f.payload, make([]byte, min(size-at, framePiece))...)
		if _, err := io.ReadFull(f.r, f.payload[at:]); err != nil {
			return err
		}
	}
	return nil
}

// sealFrame fills in the header of a frame, which has its payload behind it.
func sealFrame(kind byte, frame []byte) {
	payload := frame[frameHeader:]
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	frame[4] = kind
	binary.BigEndian.PutUint32(frame[5:], crc32.Checksum(payload, castagnoli))
}

// sendFrame sends a frame, whose payload stands behind the room for its header.
func sendFrame(conn net.Conn, kind byte, frame []byte) error {
	if size := len(frame) - frameHeader; size > frameMost {
		return fmt.Errorf("a frame of %d bytes, at most %d are sent", size, frameMost)
	}
	sealFrame(kind, frame)
	for len(frame) > 0 {
		if err := conn.SetWriteDeadline(time.Now().Add(frameWait)); err != nil {
			return err
		}
		n := min(len(frame), framePiece)
		if _, err := conn.Write(frame[:n]); err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}

// sendSmall sends a frame with a small payload.
func sendSmall(conn net.Conn, kind byte, payload []byte) error {
	return sendFrame(conn, kind, append(make([]byte, frameHeader, frameHeader+len(payload)), payload...))
}
