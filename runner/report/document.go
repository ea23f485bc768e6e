package report

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"saltpeter/runner/ledger"
)

// document is what a search engine gets. Names and types are those of the
// existing program: dashboards are built on them.
type document struct {
	JobName     string `json:"job_name"`
	Group       string `json:"group"`
	JobInstance string `json:"job_instance"`
	Timestamp   string `json:"@timestamp"`
	ReturnCode  int    `json:"return_code"`
	Machine     string `json:"machine"`
	Output      string `json:"output"`
	MsgType     string `json:"msg_type"`
}

// Of a long output a document has the beginning and, since that tells more of what
// went wrong, a larger part of the end. The ledger has all of it.
const (
	headBytes = 16 << 10
	tailBytes = 48 << 10
)

// item is a document on its way.
type item struct {
	id   string
	day  string // of its index
	body []byte // JSON, one line
}

// itemOf makes the document of a piece of news; false if there is none for it.
func itemOf(ctx context.Context, l *ledger.Ledger, n ledger.News) (item, bool, error) {
	d := document{JobName: n.Job, Group: n.Group, JobInstance: n.Run, Machine: n.Machine, Timestamp: n.At.UTC().Format("2006-01-02T15:04:05.000000+00:00")}
	switch n.Kind {
	case ledger.NewsStart, ledger.NewsNoMachines, ledger.NewsMachineStart, ledger.NewsEnd:
		d.MsgType = n.Kind
	case ledger.NewsMachineResult, ledger.NewsMachineAmended:
		d.MsgType = ledger.NewsMachineResult
		if err := result(ctx, l, n, &d); err != nil {
			return item{}, false, err
		}
	case ledger.NewsSkipped, ledger.NewsMachineSkipped:
		if n.Reason != ledger.ReasonOverlap && n.Reason != ledger.ReasonMaintenance {
			return item{}, false, nil // there is no msg_type that would say so
		}
		d.MsgType = n.Reason
		if n.Count > 1 {
			d.Output = fmt.Sprintf("and %d more due times that follow it", n.Count-1)
		}
	default:
		return item{}, false, nil
	}
	body, err := json.Marshal(d)
	return item{id: documentID(l.ServerID(), &d), day: n.At.UTC().Format("2006.01.02"), body: body}, true, err
}

// documentID is the same whenever the same document is sent: what is sent again,
// since nobody knows whether it arrived, takes the place of the first.
func documentID(server string, d *document) string {
	h := sha256.New()
	for _, part := range []string{server, d.JobInstance, d.Machine, d.MsgType} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

// result fills in how a machine's task ended, by what is known now: an exit code
// that turned out later replaces the document of before.
func result(ctx context.Context, l *ledger.Ledger, n ledger.News, d *document) error {
	d.ReturnCode = codeOf(n)
	if task, err := l.Task(ctx, ledger.TaskID{Run: n.Run, Machine: n.Machine}); err == nil && task.ExitCode != nil {
		d.ReturnCode = *task.ExitCode
	}
	out, err := openOutput(ctx, l, n)
	if err == nil {
		d.Output, err = out.excerpt()
		out.Close()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		d.Output += fmt.Sprintf("[its output cannot be read: %v]", err)
	}
	return nil
}

// excerpt is the output as a document has it: valid UTF-8 of bounded size.
func (o *output) excerpt() (string, error) {
	most := int64(headBytes + tailBytes)
	if o.length <= most {
		all, err := io.ReadAll(io.LimitReader(o.all, most+int64(len(o.notes))))
		return valid(all), err
	}
	head, tail := make([]byte, headBytes), make([]byte, tailBytes)
	if _, err := o.reader.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	if _, err := o.reader.ReadAt(tail, o.length-tailBytes); err != nil && err != io.EOF {
		return "", err
	}
	// Not in the middle of a character.
	for i := 1; i < utf8.UTFMax && i <= len(head); i++ {
		if b := head[len(head)-i]; utf8.RuneStart(b) {
			if !utf8.FullRune(head[len(head)-i:]) {
				head = head[:len(head)-i]
			}
			break
		}
	}
	for i := 0; i < utf8.UTFMax-1 && len(tail) > 0 && !utf8.RuneStart(tail[0]); i++ {
		tail = tail[1:]
	}
	left := o.length - int64(len(head)) - int64(len(tail))
	return fmt.Sprintf("%s\n[... %d bytes left out here ...]\n%s%s", valid(head), left, valid(tail), o.notes), nil
}

// valid replaces each broken byte, as everywhere else that output becomes text.
func valid(text []byte) string {
	if utf8.Valid(text) {
		return string(text)
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		b.WriteRune(r)
		text = text[size:]
	}
	return b.String()
}
