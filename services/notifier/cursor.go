package notifier

import (
	"hash/fnv"
	"strconv"
	"strings"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// mark orders what was told of a job: versions, then progress within one.
type mark struct {
	version  int64
	progress int32
}

func markOf(v *videov1.Video) mark { return mark{v.GetVersion(), v.GetProgress()} }

func (m mark) after(o mark) bool {
	return m.version > o.version || m.version == o.version && m.progress > o.progress
}

// sequence is m as one number: of what is told of a video, each has a higher one
// than all before. A percentage has 7 bits.
func (m mark) sequence() int64 { return m.version<<7 | int64(m.progress) }

// told is the last that was told of each video. That of one is kept without a
// map: such watches are many.
type told struct {
	job  string // the one, if it is one
	last mark
	any  bool
	many map[string]mark
}

func (t *told) get(videoID string) (m mark, known bool) {
	if t.job != "" {
		return t.last, t.any
	}
	m, known = t.many[videoID]
	return m, known
}

func (t *told) set(videoID string, m mark) {
	if t.job != "" {
		t.last, t.any = m, true
		return
	}
	if t.many == nil {
		t.many = map[string]mark{}
	}
	t.many[videoID] = m
}

// String is the cursor of a watch of all videos.
func (p place) String() string {
	return strconv.FormatInt(p.epoch, 36) + "-" + strconv.FormatUint(p.seq, 36)
}

// cursorOf is the cursor of a watch of one video. It holds what was told of it
// besides: a snapshot may be ahead of the stream, whose events would otherwise
// tell the same again after a resumption.
func cursorOf(p place, v *videov1.Video) string {
	m := markOf(v)
	return p.String() + "-" + strconv.FormatInt(m.version, 36) + "-" + strconv.FormatInt(int64(m.progress), 36) + "-" + short(v.GetId())
}

// short tells whose mark a cursor holds: one cursor may be given for many
// videos.
func short(id string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return strconv.FormatUint(uint64(h.Sum32()), 36)
}

// parseCursor reads a cursor; told is false when it holds no mark of videoID.
func parseCursor(s, videoID string) (p place, m mark, told, ok bool) {
	f := strings.Split(s, "-")
	if len(f) != 2 && len(f) != 5 {
		return p, m, false, false
	}
	var err1, err2 error
	p.epoch, err1 = strconv.ParseInt(f[0], 36, 64)
	p.seq, err2 = strconv.ParseUint(f[1], 36, 64)
	if err1 != nil || err2 != nil {
		return place{}, m, false, false
	}
	if len(f) == 5 && f[4] == short(videoID) {
		v, err1 := strconv.ParseInt(f[2], 36, 64)
		n, err2 := strconv.ParseInt(f[3], 36, 32)
		m, told = mark{v, int32(n)}, err1 == nil && err2 == nil
	}
	return p, m, told, true
}
