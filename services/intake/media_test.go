package intake

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"
)

// A file is what its content says.
func TestLook(t *testing.T) {
	t.Parallel()
	picture := image.NewGray(image.Rect(0, 0, 32, 16))
	var asPNG, asJPEG bytes.Buffer
	if err := png.Encode(&asPNG, picture); err != nil {
		t.Fatal(err)
	}
	if err := jpeg.Encode(&asJPEG, picture, nil); err != nil {
		t.Fatal(err)
	}
	asWebP, err := base64.StdEncoding.DecodeString("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	iso := func(brand string) string { return "\x00\x00\x00\x18ftyp" + brand + "\x00\x00\x02\x00" }
	for name, c := range map[string]struct {
		head          string
		more          bool
		kind          string
		width, height int32
		wrong         string
	}{
		"png":              {asPNG.String(), false, "image/png", 32, 16, ""},
		"jpeg":             {asJPEG.String(), false, "image/jpeg", 32, 16, ""},
		"webp":             {string(asWebP), false, "image/webp", 1, 1, ""},
		"mp4":              {iso("isom"), true, "video/mp4", 0, 0, ""},
		"mov":              {iso("qt  "), true, "video/quicktime", 0, 0, ""},
		"webm":             {"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", true, "video/webm", 0, 0, ""},
		"matroska":         {"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x88matroska", true, "", 0, 0, "is not a JPEG"},
		"avif":             {iso("avif"), true, "", 0, 0, "is not a JPEG"},
		"gif":              {"GIF89a\x01\x00\x01\x00\x00\x00\x00", false, "", 0, 0, "is not a JPEG"},
		"html":             {"<!doctype html>", false, "", 0, 0, "is not a JPEG"},
		"cut off":          {asJPEG.String()[:20], false, "", 0, 0, "is a broken image"},
		"all of it before": {asJPEG.String()[:20], true, "", 0, 0, "first 512 KiB"},
		"bomb":             {bomb(100_000, 100_000), false, "", 0, 0, "100000 × 100000 pixels"},
		"wide":             {bomb(20_000, 10), false, "", 0, 0, "16384 a side"},
		"many pixels":      {bomb(16_000, 16_000), false, "", 0, 0, "100 million"},
		"no pixels":        {bomb(0, 10), false, "", 0, 0, "broken"},
	} {
		m, err := look([]byte(c.head), !c.more)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: %v, want %q", name, err, c.wrong)
			}
			continue
		}
		if err != nil || m.contentType != c.kind || m.width != c.width || m.height != c.height || m.ext == "" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// bomb is a PNG of a few bytes that says it is large.
func bomb(width, height uint32) string {
	head := binary.BigEndian.AppendUint32([]byte("IHDR"), width)
	head = append(binary.BigEndian.AppendUint32(head, height), 8, 0, 0, 0, 0)
	out := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), head...)
	return string(binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(head)))
}
