package launch

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"saltpeter/wsx/wire"
)

const (
	answerWord = "SPR" // what a marked line begins with
	begunWord  = "SPB" // and the line that says that the script is at work
	maxNoise   = 4 << 20
	maxAnswer  = 128 << 10 // an end record of 16 KiB as hex, and 32 processes, are far below
)

var (
	errNoAnswer = errors.New("its output ended without an answer")
	errNoise    = errors.New("its output has no answer in its first megabytes")
)

// readAnswer finds the marked line of this call in what a shell prints. heard, if
// there is one, is called when the script says that it has begun.
func readAnswer(r io.Reader, mark string, heard func()) (string, error) {
	b := bufio.NewReaderSize(io.LimitReader(r, maxNoise), maxAnswer)
	seen := 0
	for {
		line, err := b.ReadSlice('\n')
		seen += len(line)
		if err == nil && ours(string(line), mark) {
			return strings.TrimRight(string(line), "\r\n"), nil
		}
		if err == nil && heard != nil && strings.TrimRight(string(line), "\r\n") == begunWord+" mark="+mark {
			heard()
			heard = nil
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && seen >= maxNoise:
			return "", errNoise
		case errors.Is(err, io.EOF):
			return "", errNoAnswer
		default:
			return "", err
		}
	}
}

// ours reports whether a line carries the mark. A shell that echoes its input has
// the mark in an assignment, never behind the word.
func ours(line, mark string) bool {
	return strings.HasPrefix(line, answerWord+" mark="+mark+" ")
}

// fields of an answer by key.
type fields map[string]string

// answerKeys are all that kill.sh says; done closes the line, so that a line that
// was cut short is not taken for one.
var answerKeys = []string{"mark", "op", "outcome", "reason", "phase", "proof", "before", "alive", "acted", "vis",
	"reused", "main", "wrap", "left", "found", "foundwrap", "boot", "ns", "end", "done"}

// parseAnswer reads the marked line of a request. What the script could not have
// said is an error: an answer that is not understood must not count as one.
func parseAnswer(line, mark string, r ScriptRequest) (ScriptResult, error) {
	res := ScriptResult{Text: line}
	f, err := splitAnswer(line)
	if err == nil && (f["mark"] != mark || f["op"] != string(r.Op)) {
		err = errors.New("it answers another question")
	}
	if err == nil {
		err = f.fill(&res)
	}
	if err == nil && f["end"] != "" {
		res.End, err = parseEnd(f["end"], r)
	}
	if err == nil && f["found"] != "" {
		res.Found, err = f.parseFound(r)
	}
	if err != nil {
		return ScriptResult{Text: line}, fmt.Errorf("cannot read the answer of kill.sh: %w", err)
	}
	return res, nil
}

func splitAnswer(line string) (fields, error) {
	words := strings.Split(line, " ")
	if len(line) > maxAnswer || len(words) != len(answerKeys)+1 || words[0] != answerWord {
		return nil, errors.New("it has not its form")
	}
	f := fields{}
	for i, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key != answerKeys[i] {
			return nil, fmt.Errorf("%q stands where %s belongs", clip(word), answerKeys[i])
		}
		f[key] = value
	}
	if f["done"] != "1" {
		return nil, errors.New("it is cut short")
	}
	return f, nil
}

func clip(s string) string { return s[:min(len(s), 40)] }

func (f fields) fill(res *ScriptResult) error {
	var err error
	number := func(key string) int {
		n, e := strconv.ParseUint(f[key], 10, 31)
		if e != nil && err == nil {
			err = fmt.Errorf("%s is not a number: %q", key, clip(f[key]))
		}
		return int(n)
	}
	word := func(key string, allowed ...string) string {
		for _, a := range allowed {
			if f[key] == a {
				return a
			}
		}
		if err == nil {
			err = fmt.Errorf("%s is %q", key, clip(f[key]))
		}
		return ""
	}
	res.Outcome = word("outcome", wire.OutcomeGone, wire.OutcomeAlive, wire.OutcomeUnknown)
	res.Reason = word("reason", "", wire.ReasonEPERM, wire.ReasonUninterruptible, wire.ReasonFrozen, wire.ReasonPending,
		ReasonRebooted, ReasonPIDNamespace, ReasonNoProc, ReasonPartial, ReasonBreeding, ReasonNoMain, ReasonBadSignal,
		ReasonMaybeWrapper, ReasonNothing)
	res.Phase = word("phase", "", wire.PhaseTerm, wire.PhaseKill)
	res.Proof = word("proof", "", wire.ProofScan, wire.ProofCgroup, wire.ProofRebooted)
	res.Before, res.Alive, res.Acted = number("before"), number("alive"), number("acted")
	res.Partial = word("vis", "full", "partial") == "partial"
	res.Reused = word("reused", "no", "yes") == "yes"
	res.MainAlive = word("main", "no", "yes") == "yes"
	res.WrapperAlive = word("wrap", "no", "yes") == "yes"
	if err != nil {
		return err
	}
	if res.Left, err = parseLeft(f["left"]); err != nil {
		return err
	}
	gone := res.Outcome == wire.OutcomeGone
	if gone != (res.Proof != "") || gone && (res.Alive > 0 || res.MainAlive || res.Partial) || len(res.Left) > res.Alive {
		return fmt.Errorf("it contradicts itself: outcome %s, proof %q, %d alive, %d named", res.Outcome, res.Proof, res.Alive, len(res.Left))
	}
	return nil
}

// parseLeft reads pid:state:reason:command,… with the command percent-encoded.
func parseLeft(text string) ([]wire.Process, error) {
	if text == "" {
		return nil, nil
	}
	var left []wire.Process
	for _, entry := range strings.Split(text, ",") {
		part := strings.Split(entry, ":")
		if len(part) != 4 || len(left) == wire.MaxLeft {
			return nil, errors.New("its list of processes has not its form")
		}
		pid, err := strconv.ParseUint(part[0], 10, 31)
		if err != nil || pid == 0 || len(part[1]) != 1 {
			return nil, fmt.Errorf("it names a process %q", clip(entry))
		}
		command, err := url.PathUnescape(part[3])
		if err != nil {
			return nil, fmt.Errorf("it names a command %q", clip(part[3]))
		}
		switch part[2] {
		case wire.ReasonEPERM, wire.ReasonUninterruptible, wire.ReasonFrozen, wire.ReasonPending, ReasonMaybeWrapper, "":
		default:
			return nil, fmt.Errorf("it names a reason %q", clip(part[2]))
		}
		left = append(left, wire.Process{PID: int(pid), State: part[1], Reason: part[2], Command: strings.ToValidUTF8(command, "\uFFFD")})
	}
	return left, nil
}

// parseEnd reads the end record. One that is torn, or of another task, says
// nothing about this one: the answer stands without it.
func parseEnd(text string, r ScriptRequest) (*wire.EndRecord, error) {
	data, err := hex.DecodeString(text)
	if err != nil {
		return nil, errors.New("its end record is not hexadecimal")
	}
	var end wire.EndRecord
	if json.Unmarshal(data, &end) != nil {
		return nil, nil
	}
	task := r.Task
	if task == "" && r.Identity != nil {
		task = r.Identity.Task
	}
	if end.Task != task || r.Run != "" && end.Run != r.Run {
		return nil, nil
	}
	return &end, nil
}

// parseFound reads pid:start:session:uid:brand, and the wrapper's pid:start.
func (f fields) parseFound(r ScriptRequest) (*wire.Identity, error) {
	bad := fmt.Errorf("it found %q, %q", clip(f["found"]), clip(f["foundwrap"]))
	part := strings.Split(f["found"], ":")
	if len(part) != 5 {
		return nil, bad
	}
	var n [4]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(part[i], 10, 63); err != nil {
			return nil, bad
		}
	}
	if n[0] <= 1 || n[0] > 1<<30 || n[1] == 0 || n[2] > 1<<30 || n[3] > 1<<32 {
		return nil, bad
	}
	ns, err := url.PathUnescape(f["ns"])
	if err != nil {
		return nil, bad
	}
	id := &wire.Identity{BootID: f["boot"], PIDNamespace: ns, Task: r.Task,
		PID: int(n[0]), StartTicks: n[1], Session: int(n[2]), UID: int(n[3]), Brand: part[4]}
	if pid, start, ok := strings.Cut(f["foundwrap"], ":"); ok {
		p, err1 := strconv.ParseUint(pid, 10, 31)
		s, err2 := strconv.ParseUint(start, 10, 63)
		if err1 != nil || err2 != nil {
			return nil, bad
		}
		id.WrapperPID, id.WrapperStartTicks = int(p), s
	}
	return id, nil
}
