package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// post tells a webhook. Its URL may be a secret by itself: of it only the host is
// ever named.
func (t *notifier) post(ctx context.Context, hook string, body []byte) error {
	u, err := url.Parse(hook)
	if err != nil {
		return errors.New("cannot use the webhook: it is no URL")
	}
	host := u.Scheme + "://" + u.Host
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("cannot ask %s", host)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "saltpeter")
	answer, err := t.client.Do(r)
	if err != nil {
		var known *url.Error
		if errors.As(err, &known) {
			err = known.Err
		}
		return fmt.Errorf("cannot reach %s: %w", host, err)
	}
	answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("%s answers %s", host, answer.Status)
	}
	return nil
}

// saidBytes is how much of what a command says is kept for the log.
const saidBytes = 1000

// runCommand tells by a command: what happened is on its standard input, and the
// essence in its environment. It has the server's rights and nothing else of it.
func runCommand(ctx context.Context, n notice, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", n.to.Command)
	c.Dir, c.Stdin = "/", bytes.NewReader(body)
	c.Env = []string{"SP_EVENT=" + n.Event, "SP_TEXT=" + n.Text, "SP_JOB_NAME=" + n.Job, "SP_JOB_INSTANCE=" + n.Run}
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"} {
		if value, there := os.LookupEnv(name); there {
			c.Env = append(c.Env, name+"="+value)
		}
	}
	var said limited
	c.Stdout, c.Stderr = &said, &said
	// With all that it has started, and not waiting for what has left its group.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 2 * time.Second
	err := c.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it has left something in the background
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %s", commandWithin)
	}
	text := strings.TrimSpace(string(said))
	if text != "" {
		text = ", saying " + fmt.Sprintf("%q", text)
	}
	return fmt.Errorf("the command failed: %w%s", err, text)
}

// limited keeps the beginning of what is written to it.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	*l = append(*l, p[:min(len(p), saidBytes-len(*l))]...)
	return len(p), nil
}
