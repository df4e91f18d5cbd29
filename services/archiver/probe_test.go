package archiver

import "testing"

func FuzzProbe(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x10ftypisom\x00\x00\x00\x00\x00\x00\x00\x08moov"))
	f.Add([]byte("\x00\x00\x00\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := probe(int64(len(b)), func(off, n int64) ([]byte, error) {
			if off < 0 || n < 0 || off+n > int64(len(b)) {
				t.Fatalf("read of %d at %d in %d bytes", n, off, len(b))
			}
			return b[off : off+n], nil
		})
		if err == nil && (m.width <= 0 || m.durationMS <= 0) {
			t.Fatalf("accepted %+v", m)
		}
	})
}
