package api

import (
	"slices"
	"strings"
	"testing"
)

const (
	goodConfig  = `{"type":"config","config":{"crons":{"a":{"command":"x","group":"g"}},"maintenance":{"global":false,"machines":[]},"serial":"1"},"sp_version":"1"}`
	goodStatus  = `{"type":"status","running":{"a_1":{"name":"a","started":"2026-01-01T00:00:00+00:00","machines":["m"]}},"last_state":{"a":{"last_run":"2026-01-01T00:00:00+00:00","result_ok":true}},"sp_version":"1"}`
	goodDetails = `{"type":"details","cron":"a","data":{"targets":["m"],"results":{"m":{"ret":"","retcode":"","starttime":"2026-01-01T00:00:00+00:00","endtime":"","output_length":1}},"overlap":false,"group":"g"}}`
	goodChunk   = `{"type":"output_chunk","cron":"a","machine":"m","run_id":"a_1","chunk":"hé","position":0,"total_length":2,"is_complete":false}`
	goodLine    = `{"type":"timeline","timeline":{"id":"1","serial":1,"content":[{"cron":"a","job_instance":"a_1","machine":"m","msg_type":"machine_start","ret_code":"","timestamp":"2026-01-01T00:00:00+00:00"},{"cron":"a","job_instance":"a_1","machine":"m","msg_type":"machine_result","ret_code":0,"timestamp":"2026-01-01T00:00:01+00:00"}]}}`
)

// The linter itself must see what is wrong.
func TestLinterSeesFaults(t *testing.T) {
	good := []string{goodConfig, goodStatus, goodDetails, goodChunk, goodLine}
	l := newLinter("hunter2")
	for _, frame := range good {
		if f := l.look([]byte(frame)); len(f) > 0 {
			t.Errorf("%s: %v", frame, f)
		}
	}
	change := func(frame, old, new string) []string {
		if !strings.Contains(frame, old) {
			t.Fatalf("%q is not in %s", old, frame)
		}
		return append(slices.Clone(good[:slices.Index(good, frame)]), strings.Replace(frame, old, new, 1))
	}
	for name, frames := range map[string][]string{
		"not JSON":                  {"{"},
		"status first":              {goodStatus},
		"no status after config":    {goodConfig, goodDetails},
		"no type":                   change(goodStatus, `"type":"status",`, ``),
		"unknown type":              change(goodStatus, `"type":"status"`, `"type":"state"`),
		"secret":                    change(goodConfig, `"command":"x"`, `"command":"x","env":{"A":"hunter2"}`),
		"saltpeter_config":          change(goodConfig, `"a":{`, `"saltpeter_config":{},"a":{`),
		"no command":                change(goodConfig, `"command":"x",`, ``),
		"group is a number":         change(goodConfig, `"group":"g"`, `"group":1`),
		"maintenance is no object":  change(goodConfig, `"maintenance":{"global":false,"machines":[]}`, `"maintenance":false`),
		"null list in maintenance":  change(goodConfig, `"machines":[]`, `"machines":null`),
		"null machines":             change(goodStatus, `["m"]`, `null`),
		"null running":              change(goodStatus, `{"a_1":{"name":"a","started":"2026-01-01T00:00:00+00:00","machines":["m"]}}`, `null`),
		"time without offset":       change(goodStatus, `00:00:00+00:00`, `00:00:00`),
		"time with Z":               change(goodStatus, `00:00:00+00:00`, `00:00:00Z`),
		"result_ok is text":         change(goodStatus, `"result_ok":true`, `"result_ok":"true"`),
		"result_ok is missing":      change(goodStatus, `,"result_ok":true`, ``),
		"last state of another job": change(goodStatus, `"last_state":{"a"`, `"last_state":{"b"`),
		"instance of another job":   change(goodStatus, `"a_1"`, `"b_1"`),
		"no targets":                change(goodDetails, `"targets":["m"],`, ``),
		"null targets":              change(goodDetails, `"targets":["m"]`, `"targets":null`),
		"null results":              change(goodDetails, `"results":{"m":{"ret":"","retcode":"","starttime":"2026-01-01T00:00:00+00:00","endtime":"","output_length":1}}`, `"results":null`),
		"next_run null":             change(goodDetails, `"overlap"`, `"next_run":null,"overlap"`),
		"invisible machine":         change(goodDetails, `["m"]`, `[]`),
		"code is text":              change(goodDetails, `"retcode":""`, `"retcode":"0"`),
		"ended without code":        change(goodDetails, `"endtime":""`, `"endtime":"2026-01-01T00:00:00+00:00"`),
		"code without end":          change(goodDetails, `"retcode":""`, `"retcode":0`),
		"output before details":     {goodConfig, goodStatus, goodChunk},
		"position too high":         change(goodChunk, `"position":0`, `"position":1`),
		"position is text":          change(goodChunk, `"position":0`, `"position":"0"`),
		"total too small":           change(goodChunk, `"total_length":2`, `"total_length":1`),
		"is_complete is missing":    change(goodChunk, `,"is_complete":false`, ``),
		"half a character":          change(goodChunk, `hé`, `h\ud83d`),
		"a character counted as one": append(slices.Clone(good[:3]), strings.NewReplacer("hé", "h😀", `"total_length":2`, `"total_length":9`).Replace(goodChunk),
			strings.NewReplacer(`"position":0`, `"position":2`, `"total_length":2`, `"total_length":9`).Replace(goodChunk)),
		"a gap":                        append(slices.Clone(good[:4]), strings.NewReplacer(`"position":0`, `"position":3`, `"total_length":2`, `"total_length":5`).Replace(goodChunk)),
		"twice without a status":       append(slices.Clone(good[:4]), goodChunk),
		"another run in the same text": append(slices.Clone(good[:4]), strings.NewReplacer(`"position":0`, `"position":2`, `"total_length":2`, `"total_length":4`, "a_1", "a_2").Replace(goodChunk)),
		"timeline out of order":        change(goodLine, "00:00:01", "00:00:00.1"),
		"timeline: null content":       change(goodLine, goodLine[strings.Index(goodLine, "["):strings.Index(goodLine, "]")+1], "null"),
		"timeline: id is a number":     change(goodLine, `"id":"1"`, `"id":1`),
		"timeline: start with a code":  change(goodLine, `"ret_code":""`, `"ret_code":0`),
		"timeline: unknown kind":       change(goodLine, "machine_start", "start"),
		"result without ok":            append(slices.Clone(good[:2]), `{"type":"result","for":"run"}`),
		"refusal without a reason":     append(slices.Clone(good[:2]), `{"type":"result","for":"run","ok":false}`),
		"receipt without its outcome":  append(slices.Clone(good[:2]), `{"type":"receipt","cron":"a","run":"a_1","machine":"m"}`),
		"an answer before the config":  {`{"type":"result","for":"run","ok":true}`},
		"version is missing":           change(goodStatus, `,"sp_version":"1"`, ``),
		"null deep in a job":           change(goodConfig, `"command":"x"`, `"command":"x","list":[{"a":null}]`),
		"output_length is no number":   change(goodDetails, `"output_length":1`, `"output_length":""`),
		"overlap is text":              change(goodDetails, `"overlap":false`, `"overlap":""`),
		"machines hold numbers":        change(goodStatus, `["m"]`, `[1]`),
		"chunk without a run":          change(goodChunk, `"run_id":"a_1",`, ``),
	} {
		l := newLinter("hunter2")
		var f faults
		for i, frame := range frames {
			if f = l.look([]byte(frame)); len(f) > 0 && i < len(frames)-1 && name != "output before details" {
				t.Errorf("%s: frame %d is good: %v", name, i, f)
			}
		}
		if name == "timeline out of order" {
			f = nil
			frame := strings.Replace(goodLine, "00:00:00+00:00", "00:00:02+00:00", 1)
			f = l.look([]byte(frame))
		}
		if len(f) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
}
