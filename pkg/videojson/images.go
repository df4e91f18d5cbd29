package videojson

import videov1 "reelway.dev/proto/gen/reelway/video/v1"

// images are what was made of a stored video. They are null when they were not
// made, and VariantsMissing says why: off, no_ffmpeg or failed.
type images struct {
	Thumbnail       *Image `json:"thumbnail"`
	Spritesheet     *Sheet `json:"spritesheet"`
	Media           *Media `json:"media"`
	VariantsMissing string `json:"variants_missing,omitempty"`
}

// Image is a picture of a video. Its file is /v1/videos/{id}/content?variant=….
type Image struct {
	ContentType string `json:"content_type"`
	Bytes       int64  `json:"bytes"`
	Width       int32  `json:"width"`
	Height      int32  `json:"height"`
}

// Sheet is an image of many pictures in rows, each IntervalMS after the one
// before it.
type Sheet struct {
	Image
	Columns    int32 `json:"columns"`
	Rows       int32 `json:"rows"`
	IntervalMS int64 `json:"interval_ms"`
}

// Media is what the file holds. AudioCodec is empty without sound.
type Media struct {
	VideoCodec string  `json:"video_codec"`
	AudioCodec string  `json:"audio_codec"`
	FrameRate  float64 `json:"frame_rate"` // pictures a second
	BitRate    int64   `json:"bit_rate"`   // bits a second
}

func imagesOf(a *videov1.Artifact) images {
	out := images{VariantsMissing: a.GetVariantsMissing()}
	image := func(v *videov1.Variant) Image {
		return Image{v.GetContentType(), v.GetSizeBytes(), v.GetWidth(), v.GetHeight()}
	}
	if v := a.GetThumbnail(); v != nil {
		i := image(v)
		out.Thumbnail = &i
	}
	if v := a.GetSpritesheet(); v != nil {
		out.Spritesheet = &Sheet{image(v), v.GetColumns(), v.GetRows(), v.GetIntervalMs()}
	}
	if m := a.GetMedia(); m != nil {
		out.Media = &Media{m.GetVideoCodec(), m.GetAudioCodec(), m.GetFrameRate(), m.GetBitRate()}
	}
	return out
}
