package archiver

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// media is what the head of an MP4 says of it.
type media struct {
	width, height int32
	durationMS    int64
}

// maxMoov bounds the index that is read into memory, in bytes.
const maxMoov = 64 << 20

// probe reads an MP4's index (ISO/IEC 14496-12) by ranges, wherever it lies.
func probe(size int64, read func(off, length int64) ([]byte, error)) (media, error) {
	for off, boxes := int64(0), 0; off+8 <= size && boxes < 1024; boxes++ {
		head, err := read(off, min(16, size-off))
		if err != nil {
			return media{}, err
		}
		if len(head) < 8 {
			return media{}, errors.New("cut short")
		}
		length, skip := int64(binary.BigEndian.Uint32(head)), int64(8)
		switch {
		case length == 1 && len(head) == 16:
			length, skip = int64(binary.BigEndian.Uint64(head[8:])), 16
		case length == 0:
			length = size - off
		}
		if length < skip || length > size-off {
			return media{}, fmt.Errorf("box at %d leaves the file", off)
		}
		if string(head[4:8]) == "moov" {
			if length > maxMoov {
				return media{}, errors.New("index is too large")
			}
			moov, err := read(off+skip, length-skip)
			if err != nil {
				return media{}, err
			}
			return index(moov)
		}
		off += length
	}
	return media{}, errors.New("no index")
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
