package config

import (
	"net/url"
	"strings"
)

// Notify is who is told when a run of a job fails, and when the next one does not.
type Notify struct {
	Failure, Recovery bool
	Command           string // run by /bin/sh -c on this server
	Webhook           string // a URL, which may be a secret by itself
}

var notifyKeys = []string{"command", "on", "webhook"}

// notify reads who is told: a mapping, or only the URL or the command.
func (r *jobReader) notify(v *value) {
	if isNull(v) {
		return
	}
	n := Notify{Failure: true, Recovery: true}
	in := r.inside("notify.")
	switch v.kind {
	case mappingKind:
		in.doubled(v)
		for _, p := range v.pairs {
			in.notifyKey(&n, p.key, p.val)
		}
	default:
		in = &r.scope
		text, _ := in.trimmed("notify", v)
		if strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://") {
			n.Webhook = in.webhook("notify", v, text)
		} else {
			n.Command = text
		}
	}
	if !in.bad && n.Command == "" && n.Webhook == "" {
		r.fail(v, "notify", "says nobody who is to be told", "give it a command or a webhook")
	}
	r.bad = r.bad || in.bad
	r.d.job.Notify = &n
}

func (s *scope) notifyKey(n *Notify, key, v *value) {
	switch key.text {
	case "command":
		n.Command, _ = s.trimmed("command", v)
	case "webhook":
		if text, ok := s.trimmed("webhook", v); ok {
			n.Webhook = s.webhook("webhook", v, text)
		}
	case "on":
		list := []*value{v}
		if v.kind == listKind {
			list = v.items
		}
		n.Failure, n.Recovery = false, false
		for _, item := range list {
			word, _ := s.word("on", item, "failure", "recovery")
			n.Failure = n.Failure || word == "failure"
			n.Recovery = n.Recovery || word == "recovery"
		}
	default:
		s.unknown(key, notifyKeys)
	}
}

// webhook checks a URL. What is wrong with it is said without showing it.
func (s *scope) webhook(key string, v *value, text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		s.fail(v, key, "is no URL", "write https://HOST/PATH")
	}
	return text
}
