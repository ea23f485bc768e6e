package wrapper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"saltpeter/wsx/wire"
)

// detach starts this program again, in a session of its own, to run the task. It
// returns as soon as that has printed its identity or failed. The order goes
// through a pipe: its command and token are in no argument and no environment.
func detach(o *wire.Order, environ []string, stdout, stderr io.Writer) int {
	order, err := o.Encode()
	if err != nil {
		fmt.Fprintf(stderr, "saltpeter wrap: cannot pass the order on: %v\n", err)
		return exitError
	}
	cmd := exec.Command(executable(), "wrap", "--detached")
	cmd.Args[0] = "saltpeter"
	cmd.Env = withoutSettings(environ)
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(order)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		var errs io.ReadCloser
		if errs, err = cmd.StderrPipe(); err == nil {
			if err = cmd.Start(); err == nil {
				return awaitIdentity(cmd, out, errs, stdout, stderr)
			}
		}
	}
	fmt.Fprintf(stderr, "saltpeter wrap: cannot start in the background: %v\n", err)
	return exitError
}

// awaitIdentity passes on what the wrapper says until it lets go of its pipes.
func awaitIdentity(cmd *exec.Cmd, out, errs io.Reader, stdout, stderr io.Writer) int {
	var said bytes.Buffer
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		_, _ = io.Copy(stderr, errs)
	}()
	// What was said counts also where nobody takes it any more: a road that hung up
	// must not keep this process for as long as the job runs.
	_, _ = io.Copy(io.MultiWriter(&said, stdout), out)
	wg.Wait()
	if bytes.Count(said.Bytes(), []byte("\n")) >= 2 {
		return exitOK // it goes on without us
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	fmt.Fprintf(stderr, "saltpeter wrap: the wrapper ended before it had started anything: %v\n", cmd.ProcessState)
	return exitError
}

// executable is this program, even if its file was removed since.
func executable() string {
	path, err := os.Executable()
	if err == nil {
		if _, err = os.Stat(path); err == nil {
			return path
		}
	}
	return "/proc/self/exe"
}

// withoutSettings is an environment without what was meant for the first start.
func withoutSettings(environ []string) []string {
	kept := []string{"SP_ORDER=stdin"}
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "SP_") {
			kept = append(kept, entry)
		}
	}
	return kept
}
