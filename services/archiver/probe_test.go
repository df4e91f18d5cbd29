package archiver

import (
	"encoding/binary"
	"testing"
)

func box(kind string, body ...byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(8+len(body))), kind...), body...)
}

func long(kind string, body ...byte) []byte {
	b := append([]byte{0, 0, 0, 1}, kind...)
	return append(binary.BigEndian.AppendUint64(b, uint64(16+len(body))), body...)
}

// movie is a moov of 2 s and 16×16 pixels.
func movie() []byte {
	mvhd := make([]byte, 100)
	binary.BigEndian.PutUint32(mvhd[12:], 1000)
	binary.BigEndian.PutUint32(mvhd[16:], 2000)
	tkhd := make([]byte, 84)
	tkhd[77], tkhd[81] = 16, 16
	return box("moov", append(box("mvhd", mvhd...), box("trak", box("tkhd", tkhd...)...)...)...)
}

func join(bs ...[]byte) (out []byte) {
	for _, b := range bs {
		out = append(out, b...)
	}
	return out
}

func verdict(b []byte, chunk int, framed bool) (media, error) {
	p := &probe{}
	for len(b) > 0 {
		n := min(chunk, len(b))
		_, _ = p.Write(b[:n])
		b = b[n:]
	}
	return p.end(framed)
}

func TestOnlyWholeVideosPass(t *testing.T) {
	t.Parallel()
	ftyp, data := box("ftyp", []byte("isom")...), []byte("pictures")
	rest := append([]byte{0, 0, 0, 0}, "mdatpictures"...)
	for name, c := range map[string]struct {
		file   []byte
		framed bool
		ok     bool
	}{
		"index first":          {join(ftyp, movie(), box("mdat", data...)), false, true},
		"index last":           {join(ftyp, box("mdat", data...), movie()), false, true},
		"long boxes":           {join(ftyp, movie(), long("mdat", data...), long("free")), false, true},
		"to the end, framed":   {join(ftyp, movie(), rest), true, true},
		"to the end, unframed": {join(ftyp, movie(), rest), false, false},
		"no pictures":          {join(ftyp, movie()), true, false},
		"no index":             {join(ftyp, box("mdat", data...)), true, false},
		"two indexes":          {join(ftyp, movie(), movie(), box("mdat", data...)), true, false},
		"stray bytes":          {join(ftyp, movie(), box("mdat", data...), []byte{0, 0, 0}), true, false},
		"box below its head":   {join(ftyp, movie(), box("mdat", data...), []byte{0, 0, 0, 2, 'f', 'r', 'e', 'e'}), true, false},
		"box beyond 2^63":      {join(ftyp, movie(), box("mdat", data...), []byte("\x00\x00\x00\x01free\xff\xff\xff\xff\xff\xff\xff\xff")), true, false},
		"empty":                {nil, true, false},
	} {
		for _, chunk := range []int{1, 7, 1 << 20} {
			m, err := verdict(c.file, chunk, c.framed)
			if (err == nil) != c.ok {
				t.Errorf("%s in pieces of %d: %v", name, chunk, err)
			}
			if err == nil && m != (media{16, 16, 2000}) {
				t.Errorf("%s: %+v", name, m)
			}
		}
	}
	// Cut anywhere but at the end of a box after both: never whole.
	file := join(ftyp, movie(), box("mdat", data...))
	for n := range len(file) {
		if m, err := verdict(file[:n], 1<<20, false); err == nil {
			t.Fatalf("%d of %d bytes pass: %+v", n, len(file), m)
		}
	}
}

func FuzzProbe(f *testing.F) {
	f.Add(box("ftyp", []byte("isom")...), 3)
	f.Add(join(box("ftyp"), movie(), long("mdat", 1, 2, 3)), 5)
	f.Add([]byte("\x00\x00\x00\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff"), 1)
	f.Fuzz(func(t *testing.T, b []byte, chunk int) {
		m, err := verdict(b, max(chunk, 1), true)
		if err == nil && (m.width <= 0 || m.durationMS <= 0) {
			t.Fatalf("accepted %+v", m)
		}
		// How the bytes are cut into writes changes nothing.
		if w, werr := verdict(b, len(b)+1, true); m != w || (err == nil) != (werr == nil) {
			t.Fatalf("%+v %v in pieces, %+v %v at once", m, err, w, werr)
		}
	})
}
