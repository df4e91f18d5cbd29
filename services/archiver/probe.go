package archiver

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// media is what the index of an MP4 says of it.
type media struct {
	width, height int32
	durationMS    int64
}

// maxMoov bounds the index, which is kept in memory, in bytes.
const maxMoov = 16 << 20

// probe reads an MP4 (ISO/IEC 14496-12) as it streams by, box for box to its
// very end: a video that was cut has an index as good as a whole one. It keeps
// the index alone.
type probe struct {
	kind string
	head []byte // of the box that begins, until it is whole
	left uint64 // bytes of the box that are still to come
	open bool   // the box reaches to the end of the file
	moov []byte
	has  struct{ moov, mdat bool }
	err  error // the first that is wrong; what follows is not looked at
}

// Write implements io.Writer. It never fails: the verdict is end's.
func (p *probe) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && p.err == nil && !p.open {
		if p.left > 0 {
			k := min(p.left, uint64(len(b)))
			if p.kind == "moov" {
				p.moov = append(p.moov, b[:k]...)
			}
			p.left -= k
			b = b[k:]
			continue
		}
		need := 8
		if len(p.head) >= 8 && binary.BigEndian.Uint32(p.head) == 1 {
			need = 16 // a long box
		}
		k := min(need-len(p.head), len(b))
		p.head = append(p.head, b[:k]...)
		b = b[k:]
		if len(p.head) == need {
			p.begin()
		}
	}
	return n, nil
}

// begin reads the head of a box, when it is whole.
func (p *probe) begin() {
	size := uint64(binary.BigEndian.Uint32(p.head))
	p.kind = string(p.head[4:8])
	switch {
	case size == 1 && len(p.head) == 8:
		return // its length follows
	case size == 1:
		size = binary.BigEndian.Uint64(p.head[8:])
	case size == 0:
		p.open = true
	}
	skip := uint64(len(p.head))
	p.head = nil
	if !p.open && size < skip {
		p.err = fmt.Errorf("a box of %d bytes", size)
		return
	}
	if !p.open {
		p.left = size - skip
	}
	switch p.kind {
	case "mdat":
		p.has.mdat = true
	case "moov":
		switch {
		case p.has.moov:
			p.err = errors.New("two indexes")
		case p.open || p.left > maxMoov:
			p.err = errors.New("index is too large")
		}
		p.has.moov = true
	}
}

// end is the verdict after the last byte. framed says that the transport would
// have told had the file been cut: only then can a box reach to its end.
func (p *probe) end(framed bool) (media, error) {
	switch {
	case p.err != nil:
		return media{}, p.err
	case p.left > 0 || len(p.head) > 0 || p.open && !framed:
		return media{}, errors.New("it is cut short")
	case !p.has.mdat:
		return media{}, errors.New("it has no pictures")
	case !p.has.moov:
		return media{}, errors.New("it has no index")
	}
	return index(p.moov)
}
func index(moov []byte) (media, error) {
	var m media
	walk(moov, func(kind string, body []byte) {
		switch kind {
		case "mvhd":
			m.durationMS = duration(body)
		case "trak":
			walk(body, func(kind string, b []byte) {
				if kind == "tkhd" && len(b) >= 84 {
					w := int32(binary.BigEndian.Uint32(b[len(b)-8:]) >> 16)
					h := int32(binary.BigEndian.Uint32(b[len(b)-4:]) >> 16)
					if w > 0 && h > 0 { // sound has none
						m.width, m.height = w, h
					}
				}
			})
		}
	})
	if m.width == 0 || m.durationMS <= 0 {
		return m, errors.New("no video track with a length")
	}
	return m, nil
}

func duration(b []byte) int64 {
	var scale uint32
	var d uint64
	switch {
	case len(b) >= 32 && b[0] == 1:
		scale, d = binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint64(b[24:])
	case len(b) >= 20:
		scale, d = binary.BigEndian.Uint32(b[12:]), uint64(binary.BigEndian.Uint32(b[16:]))
	}
	if scale == 0 || d > 1<<50 {
		return 0
	}
	return int64(d * 1000 / uint64(scale))
}

// walk visits the boxes of b; a broken one ends the walk.
func walk(b []byte, visit func(kind string, body []byte)) {
	for len(b) >= 8 {
		n := int(binary.BigEndian.Uint32(b))
		if n < 8 || n > len(b) {
			return
		}
		visit(string(b[4:8]), b[8:n])
		b = b[n:]
	}
}
