package cmd

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// oldStore stands in for Elasticsearch and OpenSearch: a store with dashboards on it
// that know the documents of the Python program.
type oldStore struct {
	*httptest.Server
	mu      sync.Mutex
	down    bool
	refused int                    // requests while it was down
	docs    map[string]oldDocument // by index/id
	faults  []string
}

type oldDocument map[string]any

func newOldStore(t *testing.T) *oldStore {
	s := &oldStore{docs: map[string]oldDocument{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(func() {
		s.Close()
		for _, f := range s.faults {
			t.Error(f)
		}
	})
	return s
}

func (s *oldStore) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		s.refused++
		http.Error(w, `{"error": {"type": "cluster_block_exception", "reason": "no master"}, "status": 503}`, http.StatusServiceUnavailable)
		return
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = zip
	}
	if r.Method != http.MethodPost || r.URL.Path != "/_bulk" {
		s.faults = append(s.faults, "asked for "+r.Method+" "+r.URL.Path)
		http.NotFound(w, r)
		return
	}
	var items []any
	for in := bufio.NewReader(body); ; {
		var action struct {
			Index struct {
				Index string `json:"_index"`
				ID    string `json:"_id"`
			} `json:"index"`
		}
		var doc oldDocument
		line, err := in.ReadBytes('\n')
		if err != nil {
			break // a client that was killed sends half a line: nothing of it counts
		}
		text, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		if json.Unmarshal(line, &action) != nil || json.Unmarshal(text, &doc) != nil || action.Index.ID == "" {
			s.faults = append(s.faults, fmt.Sprintf("not understood: %s%s", line, text))
			break
		}
		s.docs[action.Index.Index+"/"+action.Index.ID] = doc
		items = append(items, map[string]any{"index": map[string]any{"_index": action.Index.Index, "_id": action.Index.ID, "status": 201}})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"took": 1, "errors": false, "items": items})
}

// with does something while nothing is answered.
func (s *oldStore) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// found are the documents of an index by what they tell: a second one of the same
// would be a duplicate on a dashboard.
func (s *oldStore) found(t *testing.T, index string) map[string]oldDocument {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	all, name := map[string]oldDocument{}, regexp.MustCompile(`^`+index+`-\d{4}\.\d\d\.\d\d/`)
	for key, doc := range s.docs {
		if !name.MatchString(key) {
			continue
		}
		what := fmt.Sprint(doc["msg_type"], " ", doc["job_instance"], " ", doc["machine"])
		if all[what] != nil {
			t.Errorf("%s has twice: %s", index, what)
		}
		all[what] = doc
	}
	return all
}

// lintDocument looks at the names and types that a mapping of before has.
func lintDocument(t *testing.T, doc oldDocument) {
	t.Helper()
	for _, key := range []string{"job_name", "group", "job_instance", "@timestamp", "machine", "output", "msg_type"} {
		if _, is := doc[key].(string); !is {
			t.Errorf("%s is no text in %v", key, doc)
		}
	}
	if _, is := doc["return_code"].(float64); !is || len(doc) != 8 {
		t.Errorf("a document reads %v", doc)
	}
	if _, err := time.Parse(time.RFC3339, fmt.Sprint(doc["@timestamp"])); err != nil {
		t.Error(err)
	}
	kinds := []string{"start", "machine_start", "machine_result", "end", "overlap", "no_machines", "maintenance"}
	if !slices.Contains(kinds, fmt.Sprint(doc["msg_type"])) {
		t.Errorf("no dashboard knows the msg_type of %v", doc)
	}
}

// Maintenance from the start, then an outage of the stores with a crash of the server
// in it: every run's documents arrive, each once.
func TestMigrationOfDocuments(t *testing.T) {
	m := newMigration(t, func(m *migration) {
		m.edit("maintenance.yaml", "global: False", "global: True")
		m.store.down = true
	})
	if !m.status().Maintenance.Global {
		t.Error("maintenance that was there from the start is not in force")
	}
	m.await("due times are held back", func() bool {
		skips, err := m.client.Skips(context.Background(), "tick", time.Time{}, time.Time{}, 10)
		return err == nil && slices.ContainsFunc(skips, func(s ledger.Skip) bool { return s.Reason == ledger.ReasonMaintenance })
	})
	if _, err := m.client.RunJob(context.Background(), "fails", api.RunRequest{}); err == nil || m.count("tick")+m.count("slow")+m.count("fails") > 0 {
		t.Errorf("something began in maintenance; a start that is asked for says %v", err)
	}
	m.edit("maintenance.yaml", "global: True", "global: False")
	m.await("tick fires", func() bool { return m.count("tick") > 0 })

	fails, nowhere, bare := m.start("fails"), m.start("nowhere"), m.start("bare")
	m.ended(fails)
	if task := m.ended(bare).Tasks[0]; task.ExitCode == nil || *task.ExitCode != 4 {
		t.Errorf("without a wrapper: %+v", task)
	}
	m.await("the store was asked while it was down", func() (yes bool) { m.store.with(func() { yes = m.store.refused > 1 }); return yes })
	m.await("slow overlaps", func() bool {
		skips, err := m.client.Skips(context.Background(), "slow", time.Time{}, time.Time{}, 10)
		return err == nil && slices.ContainsFunc(skips, func(s ledger.Skip) bool { return s.Reason == ledger.ReasonOverlap })
	})
	m.end(syscall.SIGKILL)
	m.store.with(func() { m.store.down = false })
	m.serve()
	m.await("tick fires again", func() bool { n := m.count("tick"); return n > 1 })
	m.quiet()
	for _, index := range []string{"saltpeter", "cron-logs"} {
		m.allTold(index)
		docs := m.store.found(t, index)
		for _, doc := range docs {
			lintDocument(t, doc)
		}
		if doc := docs["machine_result "+fails+" db1"]; doc["return_code"] != 3.0 || doc["output"] != "no such disk\n" || doc["job_name"] != "fails" || doc["group"] != "apps" {
			t.Errorf("%s has of fails: %v", index, doc)
		}
		if doc := docs["machine_result "+bare+" web2"]; doc["return_code"] != 4.0 || doc["output"] != "no wrapper\n" {
			t.Errorf("%s has of bare: %v", index, doc)
		}
		if docs["no_machines "+nowhere+" "] == nil {
			t.Errorf("%s does not have that nothing matched", index)
		}
	}
}

// allTold waits until a store has all that the ledger has.
func (m *migration) allTold(index string) {
	m.t.Helper()
	var missing []string
	defer func() {
		if m.t.Failed() {
			m.t.Logf("%s misses %v", index, missing)
		}
	}()
	m.await(index+" has every run", func() bool {
		page, err := m.client.Runs(context.Background(), ledger.RunFilter{Limit: 1000})
		if err != nil {
			m.t.Fatal(err)
		}
		docs := m.store.found(m.t, index)
		missing = nil
		want := func(kind, run, machine string) {
			if what := kind + " " + run + " " + machine; docs[what] == nil {
				missing = append(missing, what)
			}
		}
		for _, run := range page.Runs {
			want("start", run.ID, "")
			want("end", run.ID, "")
			for _, task := range m.run(run.ID).Tasks {
				want("machine_result", run.ID, task.Machine)
				if !task.Started.IsZero() {
					want("machine_start", run.ID, task.Machine)
				}
			}
		}
		for _, kind := range []string{"overlap slow_", "maintenance tick_"} {
			there := false
			for what := range docs {
				there = there || strings.HasPrefix(what, kind)
			}
			if !there {
				missing = append(missing, kind)
			}
		}
		return len(missing) == 0
	})
}
