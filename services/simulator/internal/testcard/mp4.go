package testcard

import (
	"encoding/binary"
	"fmt"
)

// FPS is the frame rate of every test card.
const FPS = 24

// Render returns an MP4 of width×height pixels (even, 16 to 4096) that lasts
// seconds (1 to 600).
func Render(width, height, seconds int) ([]byte, error) {
	if width < 16 || height < 16 || width > 4096 || height > 4096 || width%2+height%2 > 0 || seconds < 1 || seconds > 600 {
		return nil, fmt.Errorf("no test card of %d×%d pixels and %d s", width, height, seconds)
	}
	mw, mh := (width+15)/16, (height+15)/16
	var samples [][]byte
	var sync []uint32
	for f := range seconds * FPS {
		var nal []byte
		if f%FPS == 0 {
			sync = append(sync, uint32(f+1))
			nal = intra(mw, mh, f/FPS)
		} else {
			nal = skipped(mw, mh, f%FPS)
		}
		samples = append(samples, append(binary.BigEndian.AppendUint32(nil, uint32(len(nal))), nal...))
	}
	head := box("ftyp", []byte("isom"), u32(512), []byte("isomiso2avc1mp41"))
	moov := movie(width, height, seconds, samples, sync, 0)
	offset := uint32(len(head) + len(moov) + 8)
	moov = movie(width, height, seconds, samples, sync, offset)
	out := append(head, moov...)
	return append(out, box("mdat", samples...)...), nil
}

func movie(width, height, seconds int, samples [][]byte, sync []uint32, offset uint32) []byte {
	const scale = FPS * 512
	duration := u32(uint32(seconds * scale))
	matrix := join(u32(0x10000), zero(12), u32(0x10000), zero(12), u32(0x40000000))
	sizes := join(zero(4), zero(4), u32(uint32(len(samples))))
	for _, s := range samples {
		sizes = append(sizes, u32(uint32(len(s)))...)
	}
	keys := join(zero(4), u32(uint32(len(sync))))
	for _, k := range sync {
		keys = append(keys, u32(k)...)
	}
	s, p := sps(width, height), pps()
	avcc := box("avcC", []byte{1, s[1], s[2], s[3], 0xFF, 0xE1}, u16(uint16(len(s))), s, []byte{1}, u16(uint16(len(p))), p)
	avc1 := box("avc1", zero(6), u16(1), zero(16), u16(uint16(width)), u16(uint16(height)), u32(0x480000), u32(0x480000), zero(4), u16(1), zero(32), u16(24), u16(0xFFFF), avcc)
	stbl := box("stbl",
		box("stsd", zero(4), u32(1), avc1),
		box("stts", zero(4), u32(1), u32(uint32(len(samples))), u32(512)),
		box("stss", keys),
		box("stsc", zero(4), u32(1), u32(1), u32(uint32(len(samples))), u32(1)),
		box("stsz", sizes),
		box("stco", zero(4), u32(1), u32(offset)))
	minf := box("minf", box("vmhd", u32(1), zero(8)),
		box("dinf", box("dref", zero(4), u32(1), box("url ", u32(1)))), stbl)
	mdia := box("mdia",
		box("mdhd", zero(12), u32(scale), duration, u16(0x55C4), zero(2)),
		box("hdlr", zero(8), []byte("vide"), zero(12), []byte("test card\x00")), minf)
	trak := box("trak",
		box("tkhd", u32(3), zero(8), u32(1), zero(4), duration, zero(8), zero(8), matrix, u32(uint32(width)<<16), u32(uint32(height)<<16)), mdia)
	return box("moov",
		box("mvhd", zero(12), u32(scale), duration, u32(0x10000), u16(0x100), zero(10), matrix, zero(24), u32(2)), trak)
}

func box(kind string, parts ...[]byte) []byte {
	body := join(parts...)
	return join(u32(uint32(len(body)+8)), []byte(kind), body)
}

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func zero(n int) []byte   { return make([]byte, n) }
func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
