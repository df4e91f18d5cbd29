// Package testcard draws a moving test card as a real H.264 video in an MP4
// file, small and fast, without an external encoder. The stream is baseline
// profile (ITU-T H.264): an intra frame of colour bars each second, whose first
// row of macroblocks carries the samples and whose other blocks are predicted
// from it, and skipped frames between.
package testcard

type bits struct {
	buf []byte
	cur byte
	n   uint
}

func (b *bits) u(v uint64, width uint) {
	for i := int(width) - 1; i >= 0; i-- {
		b.cur = b.cur<<1 | byte(v>>uint(i)&1)
		if b.n++; b.n == 8 {
			b.buf = append(b.buf, b.cur)
			b.cur, b.n = 0, 0
		}
	}
}

// ue writes an unsigned Exp-Golomb code (§9.1).
func (b *bits) ue(v uint64) {
	v++
	w := uint(0)
	for x := v; x > 1; x >>= 1 {
		w++
	}
	b.u(0, w)
	b.u(v, w+1)
}

func (b *bits) align() {
	for b.n != 0 {
		b.u(0, 1)
	}
}

// rbsp ends the payload (§7.3.2.11) and escapes start codes (§7.4.1).
func (b *bits) nal(header byte) []byte {
	b.u(1, 1)
	b.align()
	out := []byte{header}
	zeros := 0
	for _, c := range b.buf {
		if zeros >= 2 && c <= 3 {
			out = append(out, 3)
			zeros = 0
		}
		if c == 0 {
			zeros++
		} else {
			zeros = 0
		}
		out = append(out, c)
	}
	return out
}

const level = 51 // up to 4096×2304

func sps(width, height int) []byte {
	b := &bits{}
	b.u(66, 8) // baseline
	b.u(0xC0, 8)
	b.u(level, 8)
	b.ue(0) // sps id
	b.ue(0) // frame_num has 4 bits
	b.ue(2) // output order is decoding order
	b.ue(1) // one reference frame
	b.u(0, 1)
	mw, mh := (width+15)/16, (height+15)/16
	b.ue(uint64(mw - 1))
	b.ue(uint64(mh - 1))
	b.u(1, 1) // frames only
	b.u(1, 1)
	if cropX, cropY := (mw*16-width)/2, (mh*16-height)/2; cropX > 0 || cropY > 0 {
		b.u(1, 1)
		b.ue(0)
		b.ue(uint64(cropX))
		b.ue(0)
		b.ue(uint64(cropY))
	} else {
		b.u(0, 1)
	}
	b.u(0, 1) // no VUI
	return b.nal(0x67)
}

func pps() []byte {
	b := &bits{}
	b.ue(0)
	b.ue(0)
	b.u(0, 2) // CAVLC
	b.ue(0)   // one slice group
	b.ue(0)
	b.ue(0)
	b.u(0, 3)
	b.ue(0) // qp 26
	b.ue(0)
	b.ue(0)
	b.u(1, 1) // deblocking control present
	b.u(0, 2)
	return b.nal(0x68)
}

// bars are the colours in Y, Cb, Cr (BT.601, 75 %).
var bars = [8][3]byte{{180, 128, 128}, {162, 44, 142}, {131, 156, 44}, {112, 72, 58}, {84, 184, 198}, {65, 100, 212}, {35, 212, 114}, {16, 128, 128}}

func intra(mw, mh, second int) []byte {
	b := &bits{}
	b.ue(0) // first macroblock
	b.ue(7) // I slice
	b.ue(0)
	b.u(0, 4) // frame_num
	b.ue(uint64(second % 2))
	b.u(0, 2)
	b.ue(0) // qp delta
	b.ue(1) // no deblocking
	colour := func(x int) int { return ((x + second) * 8 / mw) % 8 }
	pcm := func(x, y int) bool { return y == 0 && (x == 0 || colour(x) != colour(x-1)) }
	for y := range mh {
		for x := range mw {
			if pcm(x, y) {
				b.ue(25)
				b.align()
				c := bars[colour(x)]
				for range 256 {
					b.buf = append(b.buf, c[0])
				}
				for range 64 {
					b.buf = append(b.buf, c[1])
				}
				for range 64 {
					b.buf = append(b.buf, c[2])
				}
				continue
			}
			// Intra 16x16 without residual: horizontal in the first row, then vertical.
			mode, chroma := uint64(2), uint64(1)
			if y > 0 {
				mode, chroma = 1, 2
			}
			b.ue(mode)
			b.ue(chroma)
			b.ue(0) // qp delta
			// The code for "no coefficient" depends on the neighbours, of which a
			// raw one counts as 16 (§9.2.1).
			if x > 0 && pcm(x-1, y) || y > 0 && pcm(x, y-1) {
				b.u(3, 6)
			} else {
				b.u(1, 1)
			}
		}
	}
	return b.nal(0x65)
}

func skipped(mw, mh, frame int) []byte {
	b := &bits{}
	b.ue(0)
	b.ue(5) // P slice
	b.ue(0)
	b.u(uint64(frame%16), 4)
	b.u(0, 3) // defaults of references and their marking
	b.ue(0)
	b.ue(1)
	b.ue(uint64(mw * mh)) // every macroblock as in the frame before
	return b.nal(0x41)
}
