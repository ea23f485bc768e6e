package wrapper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// probeDial bounds one try of the way back.
const probeDial = 5 * time.Second

// mainProbe is `saltpeter wrap --probe`: says what a server wants to know of a
// machine before it sends a job there. It starts nothing and writes nothing.
func mainProbe(stdin io.Reader, stdout, stderr io.Writer) int {
	var q wire.Probe
	if err := json.NewDecoder(io.LimitReader(stdin, 1<<20)).Decode(&q); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintf(stderr, "saltpeter wrap: cannot read what to probe: %v\n", err)
		return exitError
	}
	a := wire.Probed{UID: os.Geteuid(), Dials: make([]wire.ProbedDial, len(q.URLs))}
	var wg sync.WaitGroup
	for i, url := range q.URLs {
		wg.Go(func() {
			a.Dials[i].URL = url
			if err := tryDial(url, q.Pin); err != nil {
				a.Dials[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	a.Time = wire.FormatTime(time.Now())
	line, err := json.Marshal(a)
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s\n%s\n", versionLine(), line)
	}
	if err != nil {
		return exitError
	}
	return exitOK
}

// tryDial dials with a token that nobody has: a server that is there refuses it.
func tryDial(url, pin string) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeDial)
	defer cancel()
	o := dialOptions(url+"/task/probe", pin)
	o.Timeout = probeDial
	c, err := wsx.Dial(ctx, o)
	switch {
	case errors.Is(err, wsx.ErrUnauthorized):
		return nil
	case err != nil:
		return err
	}
	c.Close("probed")
	return nil
}
