package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/runner/ledger"
)

// Bounds of one request. What a store takes at most is 100 MB by default; small
// ones lose less when they fail.
const (
	bulkBytes  = 4 << 20 // before it is compressed
	bulkWithin = 30 * time.Second
)

// store sends documents to Elasticsearch or OpenSearch. It is its reporter's
// alone, but for what the lock is for.
type store struct {
	name   string
	ledger *ledger.Ledger
	log    *slog.Logger
	client *http.Client

	pending []item          // prepared, and not yet taken
	most    int             // bytes of a request; halved where that is refused as too large
	next    int             // the endpoint to try first
	said    map[string]bool // why documents were refused, once each
	rejects atomic.Int64

	mu        sync.Mutex
	settings  Store
	endpoints []endpoint
	faulty    error // of an address
}

func newStore(o Options, name string) *store {
	return &store{name: name, ledger: o.Ledger, log: o.Log.With("reporter", name), most: bulkBytes, said: map[string]bool{},
		client: &http.Client{
			Timeout: bulkWithin,
			// Documents must not follow a redirect to where nobody meant them to go.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
				TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: bulkWithin},
		}}
}

func (s *store) set(all Settings) bool {
	now := all.Elasticsearch
	if s.name == OpenSearch {
		now = all.OpenSearch
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(now.URLs, s.settings.URLs) && now.Index == s.settings.Index {
		return false
	}
	s.settings, s.endpoints, s.faulty = now, nil, nil
	for _, text := range now.URLs {
		e, err := parseEndpoint(text)
		if err != nil {
			s.faulty = errors.Join(s.faulty, fmt.Errorf("cannot use an address of %s: %w", s.name, err))
			continue
		}
		s.endpoints = append(s.endpoints, e)
	}
	return true
}

func (s *store) to() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var urls []string
	for _, e := range s.endpoints {
		urls = append(urls, e.url)
	}
	return strings.Join(urls, ", ")
}

// warning is about addresses that cannot be used while others can.
func (s *store) warning() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faulty == nil || len(s.endpoints) == 0 {
		return ""
	}
	return s.faulty.Error()
}

func (s *store) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 {
		return s.faulty
	}
	return nil
}

func (s *store) restore(string) error { return nil }
func (s *store) again(string) bool    { return false }
func (s *store) refused() int64       { return s.rejects.Load() }
func (s *store) close()               { s.client.CloseIdleConnections() }

// prepare makes the documents of as many news as go into one request.
func (s *store) prepare(ctx context.Context, list []ledger.News, _ func() error) (n int, state string, err error) {
	s.pending = s.pending[:0]
	size := 0
	for n < len(list) && size < s.most {
		it, there, err := itemOf(ctx, s.ledger, list[n])
		if err != nil {
			return 0, "", err
		}
		n++
		if there {
			s.pending = append(s.pending, it)
			size += len(it.body)
		}
	}
	return n, "", nil
}

// send sends what is pending. A store that took a part of it is sent the rest
// when it is called again.
func (s *store) send(ctx context.Context, _ []ledger.News) error {
	for len(s.pending) > 0 {
		n, size := 0, 0
		for n < len(s.pending) && (n == 0 || size+len(s.pending[n].body) <= s.most) {
			size += len(s.pending[n].body)
			n++
		}
		left, err := s.offer(ctx, s.pending[:n])
		switch {
		case errors.Is(err, errTooLarge) && n > 1:
			s.most = max(size/2, 1)
			continue
		case errors.Is(err, errTooLarge):
			s.reject("request too large", "one document is larger than the store takes")
		case err != nil && left == nil:
			return err
		}
		s.pending = slices.Concat(left, s.pending[n:])
		if len(left) > 0 {
			return err
		}
	}
	s.most = bulkBytes
	return nil
}

// offer sends some documents to the first endpoint that answers. It returns those
// that are to be sent again, with the reason; an error without any says that
// nothing is known to have been taken.
func (s *store) offer(ctx context.Context, items []item) ([]item, error) {
	s.mu.Lock()
	endpoints, index := s.endpoints, s.settings.Index
	s.mu.Unlock()
	if len(endpoints) == 0 {
		return nil, s.ready()
	}
	body, err := bulkBody(index, items)
	if err != nil {
		return nil, err
	}
	var failures error
	for i := range endpoints {
		at := (s.next + i) % len(endpoints)
		answer, err := s.post(ctx, endpoints[at], body)
		switch {
		case err == nil:
			s.next = at
			return s.taken(items, answer)
		case errors.Is(err, errTooLarge):
			return nil, err
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		failures = errors.Join(failures, err)
	}
	return nil, failures
}

// mostSaid bounds what is remembered of reasons.
const mostSaid = 100

// reject counts a document that the store will never take, and says why, once.
func (s *store) reject(kind, why string) {
	s.rejects.Add(1)
	if s.said[kind] || len(s.said) >= mostSaid {
		return
	}
	s.said[kind] = true
	s.log.Error("a document was refused, and is left out; others like it are only counted", "kind", kind, "why", why)
}
