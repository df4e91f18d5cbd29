package mail

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

//go:embed letters
var letters embed.FS

var (
	textLetter = texttemplate.Must(texttemplate.ParseFS(letters, "letters/letter.txt"))
	htmlLetter = htmltemplate.Must(htmltemplate.ParseFS(letters, "letters/letter.html"))
	page       = htmltemplate.Must(htmltemplate.ParseFS(letters, "letters/page.html"))
)

// content is what a letter says, in either form. It holds no prompt and no
// price: a letter to an end user is read by the account's customer.
type content struct {
	Subject     string
	Heading     string
	Paragraphs  []string
	Facts       []fact
	Thumbnail   string // an address of a picture; empty without one
	Link        string
	LinkText    string
	Unsubscribe string
}

// fact is a line of a small table.
type fact struct{ Name, Value string }

// ofJob is the letter about a job's end.
func ofJob(v *videov1.Video, state job.State, life time.Duration, link func(kind string) string) content {
	p := v.GetParams()
	c := content{Facts: []fact{{"Video", v.GetId()}, {"Model", p.GetModel()}, {"Length", fmt.Sprintf("%d s", p.GetDurationSeconds())}}}
	if state == job.Succeeded {
		c.Subject, c.Heading = "Your video is ready", "Your video is ready"
		c.Paragraphs = []string{"It was made and stored. The link works for " + span(life) + ", for whoever has it."}
		c.Link, c.LinkText = link(videoFile), "Watch the video"
		if v.GetArtifact().GetThumbnail().GetKey() != "" {
			c.Thumbnail = link(thumbnail)
		}
		if a := v.GetArtifact(); a.GetWidth() > 0 {
			c.Facts = append(c.Facts, fact{"Size", fmt.Sprintf("%d × %d", a.GetWidth(), a.GetHeight())})
		}
		return c
	}
	c.Subject, c.Heading = "Your video could not be made", "Your video could not be made"
	c.Paragraphs = []string{advice(state, fault.Code(v.GetError().GetCode())), "Nothing is charged for it."}
	return c
}

// advice says what happened and what to do. The provider's own words may quote
// the prompt, and are left out.
func advice(state job.State, code fault.Code) string {
	switch {
	case state == job.NeedsReview:
		return "The provider gave no verdict in time. It is still asked; please submit the video again if you need it soon."
	case state == job.Expired:
		return "No provider had room for it in time. Please submit it again later, or with another model."
	case code == fault.ContentPolicy:
		return "The provider's rules do not allow what was asked for. Please change the description or the picture, and submit it again."
	case code == fault.InvalidRequest || code == fault.ProviderRejected:
		return "The provider did not accept what was asked for. Please check the description, the picture and the settings, or try another model."
	case code == fault.ProviderUnavailable || code == fault.RateLimited || code == fault.Timeout || code == fault.Unavailable:
		return "The provider was not able to make it at the moment. Please submit it again later, or with another model."
	}
	return "The provider failed to make it. Please submit it again, or try another model."
}

// ofNotice is the letter about an account's money.
func ofNotice(n *eventv1.AccountNotice) content {
	c := content{Paragraphs: []string{n.GetText()}, Facts: []fact{{"Account", n.GetAccountId()}}}
	if p := n.GetPaused(); p != nil {
		c.Subject, c.Heading = "Your account is paused", "Your account is paused"
		c.Facts = append(c.Facts, fact{"This hour", credits(p.GetHourMicros())}, fact{"Most in an hour", credits(p.GetLimitMicros())})
		c.Paragraphs = append(c.Paragraphs, "No new videos are taken until an operator resumes the account. What is under way goes on. If the spending was not yours, have your API keys replaced first.")
		return c
	}
	b := n.GetBudget()
	c.Subject = fmt.Sprintf("%d %% of a budget are used", b.GetPercent())
	c.Heading = c.Subject
	c.Facts = append(c.Facts, fact{"Budget", strings.TrimSpace(strings.ReplaceAll(b.GetSubject(), "_", " ") + " " + b.GetSubjectId())}, fact{"Period", b.GetPeriod()},
		fact{"Limit", credits(b.GetLimitMicros())}, fact{"Spent", credits(b.GetSpentMicros())}, fact{"Held for videos under way", credits(b.GetHeldMicros())})
	if b.GetResetsAt() != nil {
		c.Facts = append(c.Facts, fact{"Begins anew", b.GetResetsAt().AsTime().UTC().Format("2006-01-02 15:04 UTC")})
	}
	switch {
	case b.GetHard() && b.GetPercent() >= 100:
		c.Paragraphs = append(c.Paragraphs, "Videos that do not fit are refused until the budget begins anew or is raised.")
	case b.GetHard():
		c.Paragraphs = append(c.Paragraphs, "At 100 % videos that do not fit are refused. Raise the budget if that is too little.")
	default:
		c.Paragraphs = append(c.Paragraphs, "The budget only warns: nothing is refused because of it.")
	}
	return c
}

func credits(micros int64) string { return money.Format(micros) + " credits" }

// span is a length of time in words.
func span(d time.Duration) string {
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := d / u.of; n >= 2 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "a minute"
}
