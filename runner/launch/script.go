package launch

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

//go:embed kill.sh kill/*.sh
var killFiles embed.FS

// killParts are what each operation needs besides what all of them do.
var killParts = map[Op]string{OpCheck: "", OpKill: "op_kill", OpSignal: "op_signal", OpPause: "op_pause", OpResume: "op_pause"}

// killScript is kill.sh with its functions, as far as an operation needs them.
func killScript(op Op) string {
	text := func(path string) string {
		data, err := killFiles.ReadFile(path)
		if err != nil {
			panic(err) // it is part of this program
		}
		return string(data)
	}
	var parts strings.Builder
	for _, name := range []string{"process", "nets", "plain", "begin", "answer", killParts[op]} {
		if name != "" {
			parts.WriteString(text("kill/" + name + ".sh"))
		}
	}
	return strings.Replace(text("kill.sh"), "# PARTS\n", parts.String(), 1)
}

// Defaults of a request; kill.md names them.
const (
	defaultGrace = 5 * time.Second
	defaultHard  = 10 * time.Second
)

// slack is what a call may take beyond its own grace and hard limit: a machine
// under load, thousands of processes, a slow link.
const slack = 30 * time.Second

// patience is how long an answer is waited for at most.
func patience(r ScriptRequest) time.Duration {
	if r.Op != OpKill {
		return slack
	}
	return grace(r) + hard(r) + slack
}

// runScript asks kill.sh; shell is the transport's own part: it runs a script under
// `sh -s` and has its output read. Its errors are complete.
func runScript(ctx context.Context, m Machine, r ScriptRequest, shell func(ctx context.Context, script []byte, read func(io.Reader) error) error) (ScriptResult, error) {
	script, mark, err := assemble(r)
	if err != nil {
		return ScriptResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience(r))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return ScriptResult{}, fmt.Errorf("cannot ask %s: %w", m.Name, err)
	}
	var text string
	err = shell(ctx, script, func(out io.Reader) (err error) {
		text, err = readAnswer(out, mark, r.Heard)
		return err
	})
	if err != nil {
		return ScriptResult{}, err
	}
	return parseAnswer(text, mark, r)
}

func grace(r ScriptRequest) time.Duration { return max(r.Grace, 0) }

func hard(r ScriptRequest) time.Duration {
	if r.Hard <= 0 {
		return defaultHard
	}
	return r.Hard
}

// signalName is what may stand where the script has a signal. It is compiled when
// it is first used: what a package does at its start, every wrapper pays for.
func signalName() *regexp.Regexp {
	signalOnce.Do(func() { signalPattern = regexp.MustCompile(`^([A-Z][A-Z0-9]{1,9}([+-][0-9]{1,2})?|[1-9][0-9]?)$`) })
	return signalPattern
}

var (
	signalOnce    sync.Once
	signalPattern *regexp.Regexp
)

// assemble makes the text for the standard input of `sh -s`: the assignments,
// then kill.sh as one function, then its call. A link that is cut in the middle
// leaves a function that nobody calls. mark is what the answer has to carry: it
// tells this answer from whatever else a login prints.
func assemble(r ScriptRequest) (script []byte, mark string, err error) {
	signal := strings.TrimPrefix(strings.ToUpper(r.Signal), "SIG")
	if signal == "" {
		signal = "TERM"
	}
	if !signalName().MatchString(signal) {
		return nil, "", fmt.Errorf("cannot send signal %q: it is not the name of one (TERM, INT, USR1 …)", r.Signal)
	}
	if _, ok := killParts[r.Op]; !ok {
		return nil, "", fmt.Errorf("cannot do %q: kill.sh has no such operation", r.Op)
	}
	id := wire.Identity{}
	if r.Identity != nil {
		id = *r.Identity
	}
	if id.Task == "" {
		id.Task = r.Task
	}
	if id.PID < 0 || id.WrapperPID < 0 || id.Session < 0 {
		return nil, "", errors.New("cannot use the identity: it has a negative PID")
	}
	scope := "main"
	if r.Scope == "all" {
		scope = "all"
	}
	mark = rand.Text()
	var b strings.Builder
	assign := func(name, value string) { assign(&b, "k_"+name, value) }
	number := func(name string, n uint64) {
		if n == 0 {
			assign(name, "")
			return
		}
		assign(name, strconv.FormatUint(n, 10))
	}
	assign("mark", mark)
	assign("op", string(r.Op))
	assign("sig", signal)
	assign("scope", scope)
	assign("grace", centiseconds(grace(r)))
	assign("hard", centiseconds(hard(r)))
	number("ttl", uint64(max(r.TTL, 0)/(10*time.Millisecond)))
	assign("run", r.Run)
	assign("task", id.Task)
	assign("boot", id.BootID)
	assign("ns", id.PIDNamespace)
	assign("cgroup", id.Cgroup)
	assign("brand", id.Brand)
	assign("endfile", id.EndFile)
	number("pid", uint64(id.PID))
	number("start", id.StartTicks)
	number("sid", uint64(id.Session))
	number("wpid", uint64(id.WrapperPID))
	number("wstart", id.WrapperStartTicks)
	if r.Identity == nil {
		assign("known", "")
		assign("uid", "")
	} else {
		assign("known", "yes")
		assign("uid", strconv.Itoa(id.UID))
	}
	if strings.ContainsRune(b.String(), 0) || strings.ContainsAny(r.Run+id.Task, "\n\r") {
		return nil, "", errors.New("cannot use the identity: it holds a NUL byte or a line break")
	}
	b.WriteString(withoutComments(killScript(r.Op)))
	return []byte(b.String()), mark, nil
}

func centiseconds(d time.Duration) string {
	return strconv.FormatInt(int64(d/(10*time.Millisecond)), 10)
}

// shellQuote makes one word of any text.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// assign gives a script a variable.
func assign(b *strings.Builder, name, value string) {
	b.WriteString(name + "=" + shellQuote(value) + "\n")
}

// withoutComments leaves out what only people read: some shells read a script
// from a pipe byte by byte, and a slow link carries every one. kill.sh has no
// text of several lines in which a line could begin with a number sign.
func withoutComments(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		if line = strings.TrimLeft(line, " \t"); line != "\n" && !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
