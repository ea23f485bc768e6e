package lab

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

func init() {
	if os.Getenv("SALTPETER_TEST_ROLE") != "clock" {
		return
	}
	// Tells its time, and how much of it has passed, as often as it is asked.
	began := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().Unix(), time.Since(began).Milliseconds())
	}
	os.Exit(0)
}

// TestJumpingClock: one process's wall clock jumps, and nothing else does.
func TestJumpingClock(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SALTPETER_TEST_ROLE=clock", "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	answers := bufio.NewScanner(out)
	ask := func() (off time.Duration, passed int64) {
		t.Helper()
		var unix int64
		fmt.Fprintln(in, "?")
		if !answers.Scan() {
			t.Fatal("it has ended")
		}
		if _, err := fmt.Sscan(answers.Text(), &unix, &passed); err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(unix, 0)), passed
	}
	ask()
	c := JumpingClock(t, cmd.Process.Pid)
	const day, slack = 24 * time.Hour, time.Minute
	before := int64(0)
	for _, by := range []time.Duration{0, day, -day, 0} {
		c.Jump(by)
		off, passed := ask()
		if off < by-slack || off > by+slack {
			t.Errorf("after a jump by %s it is off by %s", by, off)
		}
		if passed < before || passed-before > slack.Milliseconds() {
			t.Errorf("after a jump by %s its monotonic clock went from %d to %d ms", by, before, passed)
		}
		before = passed
	}
}
