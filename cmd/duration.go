package cmd

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	"saltpeter/config"
)

// durationFlag is a flag that takes durations as job files and the API do: seconds,
// or text such as 90s, 30m, 1d. pflag's own knows neither days nor plain seconds.
type durationFlag struct{ to *time.Duration }

func durationVar(f *pflag.FlagSet, to *time.Duration, name, help string) {
	f.Var(durationFlag{to}, name, help)
}

func (d durationFlag) Set(s string) error {
	span, err := config.ParseDuration(s)
	if err == nil {
		*d.to = span
	}
	return err
}

func (d durationFlag) String() string {
	if d.to == nil || *d.to == 0 {
		return ""
	}
	return d.to.String()
}

func (d durationFlag) Type() string { return "duration" }

// parseSpan reads durations as job files write them; a bare number is refused
// here, since nobody can tell its unit at a glance.
func parseSpan(s string) (time.Duration, error) {
	if s == "" || s[len(s)-1] >= '0' && s[len(s)-1] <= '9' {
		return 0, errors.New("a duration needs a unit")
	}
	return config.ParseDuration(s)
}
