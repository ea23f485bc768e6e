package launch

import (
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"saltpeter/wsx/wire"
)

const goodAnswer = "SPR mark=M op=check outcome=alive reason= phase= proof= before=2 alive=40 acted=0 vis=full reused=no main=yes wrap=no " +
	"left=12:S::a%29%0A1%20,13:D:uninterruptible:sleep found= foundwrap= boot=b ns=pid%3A%5B1%5D end= done=1"

func TestParseAnswer(t *testing.T) {
	r := ScriptRequest{Op: OpCheck, Task: "T", Identity: &wire.Identity{Task: "T"}}
	res, err := parseAnswer(goodAnswer, "M", r)
	if err != nil || res.Alive != 40 || len(res.Left) != 2 || res.Left[0].Command != "a)\n1 " || res.Left[1].Reason != wire.ReasonUninterruptible || !res.MainAlive {
		t.Fatalf("%+v %v", res, err)
	}
	end, _ := json.Marshal(wire.EndRecord{Task: "T", RetCode: 3})
	res, err = parseAnswer(strings.Replace(goodAnswer, "end=", "end="+hex.EncodeToString(end), 1), "M", r)
	if err != nil || res.End == nil || res.End.RetCode != 3 {
		t.Fatalf("%+v %v", res, err)
	}
	for _, change := range [][2]string{
		{"mark=M", "mark=N"}, {"op=check", "op=kill"}, {"outcome=alive", "outcome=gone"}, {"outcome=alive", "outcome=fine"},
		{"alive=40", "alive=-1"}, {"alive=40", "alive="}, {"alive=40", "alive=1"}, {" done=1", ""}, {"done=1", "done=0"}, {"done=1", "done=1 x=1"},
		{"vis=full", "vis=mostly"}, {"vis=full", "full=vis"}, {"proof=", "proof=scan"}, {"proof=", "proof=echild"}, {"12:S", "0:S"}, {"12:S", "x:S"},
		{"12:S", "12:SS"}, {"12:S", "12"}, {"%29", "%2"}, {"uninterruptible", "busy"}, {"end=", "end=xyz"}, {"found= ", "found=1:2:3 "},
		{"main=yes", "main=maybe"}, {"reason=", "reason=because"},
	} {
		if res, err := parseAnswer(strings.Replace(goodAnswer, change[0], change[1], 1), "M", r); err == nil {
			t.Errorf("%v was taken: %+v", change, res)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(goodAnswer)
	f.Add(strings.Replace(goodAnswer, "found= foundwrap=", "found=2:3:4:5:6 foundwrap=7:8", 1))
	f.Add("SPR mark=M op=check outcome=gone reason=rebooted phase= proof=rebooted before=0 alive=0 acted=0 vis=full reused=no main=no wrap=no left= found= foundwrap= boot=b ns= end=7b7d done=1")
	f.Add("SPR ")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		r := ScriptRequest{Op: OpCheck, Task: "T"}
		res, err := parseAnswer(line, "M", r)
		if err != nil {
			return
		}
		if len(res.Left) > wire.MaxLeft || len(res.Left) > res.Alive || res.Outcome == wire.OutcomeGone && (res.Proof == "" || res.Partial || res.Alive > 0) {
			t.Errorf("%q was taken as %+v", line, res)
		}
		if res.Found != nil && (res.Found.PID <= 1 || res.Found.StartTicks == 0) {
			t.Errorf("%q found %+v", line, res.Found)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("Last login: today\n$ k_mark='M'\n\nSPR mark=M op=check done=1\nbye\n"), true)
	f.Add([]byte("SPR mark=M no end"), false)
	f.Add([]byte(strings.Repeat("x", 200_000)+"\nSPR mark=M \r\n"), true)
	f.Add([]byte("SPR mark=MM op\nSPR mark=\n SPR mark=M x\n"), false)
	f.Fuzz(func(t *testing.T, noise []byte, has bool) {
		line, err := readAnswer(strings.NewReader(string(noise)), "M", nil)
		if (err == nil) != strings.HasPrefix(line, "SPR mark=M ") {
			t.Errorf("%q: %v", line, err)
		}
		_ = has
	})
}

func TestReadAnswerAmongNoise(t *testing.T) {
	noise := "Welcome!\nSPR mark=other x\n" + strings.Repeat("long ", 100_000) + "\n"
	if line, err := readAnswer(strings.NewReader(noise+"SPR mark=M done=1\n"), "M", nil); err != nil || line != "SPR mark=M done=1" {
		t.Errorf("%q %v", line, err)
	}
	if line, err := readAnswer(strings.NewReader(noise), "M", nil); err != errNoAnswer {
		t.Errorf("%q %v", line, err)
	}
	if line, err := readAnswer(strings.NewReader(strings.Repeat("y\n", maxNoise)), "M", nil); err != errNoise {
		t.Errorf("%q %v", line, err)
	}
}

func FuzzReadHandshake(f *testing.F) {
	f.Add("hello\nSaltpeter Wrapper version 1.0\n{\"boot_id\":\"b\",\"pid\":7,\"start_ticks\":9}\n")
	f.Add("Saltpeter Wrapper version 1.0\n{\"pid\":7")
	f.Add("Saltpeter Wrapper version\n{}\n")
	f.Add("{\"boot_id\":\"b\",\"pid\":7,\"start_ticks\":9}\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, id, err := readHandshake(strings.NewReader(text))
		if (err == nil) != (id != nil) {
			t.Errorf("%q: %v %v", text, id, err)
		}
		if id != nil && (id.PID <= 1 || id.StartTicks == 0 || id.BootID == "" || !strings.Contains(text, wire.FirstLine)) {
			t.Errorf("%q was taken: %+v", text, id)
		}
	})
}

// Whatever a run is called, the shell sees it as one word and executes none of it.
func TestShellQuote(t *testing.T) {
	for _, s := range []string{"", "plain", "it's", "'", "a b\tc", "$(reboot)", "`id`", "\\", "'; echo x; '", "-n", "é\xff", "#", "a\nb"} {
		cmd := exec.Command("/bin/sh", "-s")
		cmd.Stdin = strings.NewReader("v=" + shellQuote(s) + "\nprintf %s. \"$v\"\n")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != s+"." {
			t.Errorf("%q became %q: %v", s, out, err)
		}
	}
}

func TestWithoutComments(t *testing.T) {
	whole := killScript(OpKill)
	text := withoutComments(whole)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" || strings.HasPrefix(line, "\t") {
			t.Fatalf("left in: %q", line)
		}
	}
	if len(text) > len(whole)*9/10 || !strings.HasSuffix(text, "\nk_all </dev/null 2>/dev/null\n") || !strings.HasPrefix(text, "k_all() {\n") {
		t.Errorf("%d of %d bytes: %.40q … %q", len(text), len(whole), text, text[len(text)-40:])
	}
}
