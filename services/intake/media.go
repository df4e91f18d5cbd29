package intake

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // what image.DecodeConfig knows
	_ "image/png"
	"io"
	"strings"

	_ "golang.org/x/image/webp"
)

const (
	// headBytes is what is read of a file before it is stored: where it must say
	// what it is, and an image how large.
	headBytes = 512 << 10
	// An image of more pixels is a bomb for whoever decodes it.
	maxSide, maxPixels = 16384, 100_000_000
)

// medium is what a file is, by its content.
type medium struct {
	contentType   string
	ext           string
	width, height int32 // of images
}

func (m medium) image() bool { return strings.HasPrefix(m.contentType, "image/") }

// media are those that are taken, with the endings of their names.
var media = map[string]string{
	"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp",
	"video/mp4": ".mp4", "video/quicktime": ".mov", "video/webm": ".webm",
}

const takenMedia = "a JPEG, PNG or WebP image, or an MP4, MOV or WebM video"

// look judges a file by its beginning; what it is said to be is not asked. whole
// says that there is no more of it.
func look(head []byte, whole bool) (medium, error) {
	if kind := video(head); kind != "" {
		return medium{contentType: kind, ext: media[kind]}, nil
	}
	cfg, format, err := image.DecodeConfig(bytes.NewReader(head))
	kind := "image/" + format
	switch {
	case errors.Is(err, image.ErrFormat), err == nil && media[kind] == "":
		return medium{}, errors.New("is not " + takenMedia)
	case err != nil && !whole && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
		return medium{}, fmt.Errorf("does not say its width and height in its first %d KiB; save it without its metadata", headBytes>>10)
	case err != nil:
		return medium{}, errors.New("is a broken image")
	case cfg.Width < 1 || cfg.Height < 1 || cfg.Width > maxSide || cfg.Height > maxSide || cfg.Width*cfg.Height > maxPixels:
		return medium{}, fmt.Errorf("is %d × %d pixels; at most %d a side and %d million together are taken", cfg.Width, cfg.Height, maxSide, maxPixels/1_000_000)
	}
	return medium{kind, media[kind], int32(cfg.Width), int32(cfg.Height)}, nil
}

// video is the type of a file that begins like one; empty for others. ISO media
// files name their brand (registry: mp4ra.org), Matroska its document type.
func video(head []byte) string {
	if len(head) >= 12 && string(head[4:8]) == "ftyp" {
		brand := string(head[8:12])
		if brand == "qt  " {
			return "video/quicktime"
		}
		for _, b := range []string{"iso", "mp4", "avc1", "M4V", "MSNV", "dash", "3gp", "XAVC"} {
			if strings.HasPrefix(brand, b) {
				return "video/mp4"
			}
		}
	}
	if bytes.HasPrefix(head, []byte{0x1A, 0x45, 0xDF, 0xA3}) && bytes.Contains(head[:min(len(head), 64)], []byte("webm")) {
		return "video/webm"
	}
	return ""
}
