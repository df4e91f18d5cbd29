package intake

import (
	"context"
	"io"
	"mime/multipart"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
)

// parts takes the files of one multipart request. They are the request's own:
// dropped when it is answered, they stay while its job needs them.
type parts struct {
	s   *Service
	ctx context.Context //nolint:containedctx // the request's, whose life it shares
	p   auth.Principal
	ids []string
}

// fileParts are the parts that may be files, and the field that each fills.
var fileParts = []struct {
	part, field, member string
	image               bool
}{
	{"input_reference", "input_reference", "file_id", true},
	{"image", "image_url", "", true},
	{"end_image", "end_image_url", "", true},
	{"video", "video_url", "", false},
}

// bytes is how large a body with all its files may be.
func (f *parts) bytes() int64 {
	if f == nil {
		return MaxBody
	}
	most := int64(MaxBody)
	for _, k := range fileParts {
		if k.image {
			most += f.s.cfg.UploadMaxBytes
		} else {
			most += max(f.s.cfg.UploadMaxVideoBytes, f.s.cfg.UploadMaxBytes)
		}
	}
	return most
}

// add stores the file of a part and fills its field. bad is a fault of the field,
// which was not read then.
func (f *parts) add(part *multipart.Part, fields map[string]any) (bad *fault.Field, _ error) {
	name := part.FormName()
	for _, k := range fileParts {
		switch _, twice := fields[k.field]; {
		case k.part != name:
			continue
		case f == nil:
			return &fault.Field{Name: name, Message: "is a file, which a quote does not take; name an upload or an https URL"}, nil
		case twice:
			return &fault.Field{Name: name, Message: "is there twice, or " + k.field + " is there too"}, nil
		}
		u, err := f.s.take(f.ctx, f.p, name, k.image, part)
		if err != nil {
			return nil, err
		}
		f.ids = append(f.ids, u.GetId())
		fields[k.field] = u.GetId()
		if k.member != "" {
			fields[k.field] = map[string]any{k.member: u.GetId()}
		}
		return nil, nil
	}
	return &fault.Field{Name: name, Message: "is a file, which is not taken here; files are input_reference, image, end_image and video"}, nil
}

func (f *parts) drop() { f.s.drop(f.ctx, f.p, f.ids...) }

// filePart is the part of a form that is the file.
func filePart(mr *multipart.Reader) (io.Reader, error) {
	for range 10 {
		part, err := mr.NextPart()
		if err != nil {
			break
		}
		if part.FormName() == "file" {
			return part, nil
		}
		if name := part.FormName(); part.FileName() != "" || name != "purpose" {
			return nil, invalid([]fault.Field{{Name: name, Message: "is no part of this form: file"}})
		}
	}
	return nil, invalid([]fault.Field{{Name: "file", Message: "is missing"}})
}
