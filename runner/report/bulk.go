package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// errTooLarge: the request as a whole was refused for its size.
var errTooLarge = errors.New("the request is too large")

// answerBytes bounds what is read of an answer.
const answerBytes = 64 << 20

// bulkBody is the body of a _bulk request, compressed.
func bulkBody(index string, items []item) ([]byte, error) {
	var body bytes.Buffer
	zip, err := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		action, err := json.Marshal(map[string]any{"index": map[string]string{"_index": index + "-" + it.day, "_id": it.id}})
		if err != nil {
			return nil, err
		}
		for _, line := range [][]byte{action, it.body} {
			if _, err := zip.Write(append(line, '\n')); err != nil {
				return nil, err
			}
		}
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// bulkAnswer is what a store answers: one result for each action, in order.
type bulkAnswer struct {
	Errors bool                    `json:"errors"`
	Items  []map[string]bulkResult `json:"items"`
}

type bulkResult struct {
	Index  string    `json:"_index"`
	Status int       `json:"status"`
	Error  bulkError `json:"error"`
}

// bulkError is an object; very old stores answer with a text.
type bulkError struct{ Type, Reason string }

func (e *bulkError) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &e.Reason)
	}
	var object struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	}
	err := json.Unmarshal(data, &object)
	e.Type, e.Reason = object.Type, object.Reason
	return err
}

// post sends a request to one endpoint. What it returns as an error names the
// endpoint and holds no secret.
func (s *store) post(ctx context.Context, e endpoint, body []byte) (*bulkAnswer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url+"/_bulk", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s", e.url)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Content-Encoding", "gzip")
	e.authorize(r)
	answer, err := s.client.Do(r)
	if err != nil {
		var known *url.Error
		if errors.As(err, &known) {
			err = known.Err
		}
		return nil, fmt.Errorf("cannot reach %s: %w", e.url, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes))
	switch {
	case answer.StatusCode == http.StatusRequestEntityTooLarge:
		return nil, fmt.Errorf("cannot send to %s: %w", e.url, errTooLarge)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("cannot send to %s: it answers %s%s%s", e.url, answer.Status, excuse(data), statusHint(answer.StatusCode))
	case err != nil:
		return nil, fmt.Errorf("cannot read the answer of %s: %w", e.url, err)
	}
	var bulk bulkAnswer
	if err := json.Unmarshal(data, &bulk); err != nil {
		return nil, fmt.Errorf("cannot send to %s: it answers with something else than a _bulk result: is it Elasticsearch or OpenSearch?", e.url)
	}
	return &bulk, nil
}

// excuse is what a store says of an error, if that can be found.
func excuse(data []byte) string {
	var known struct{ Error bulkError }
	if json.Unmarshal(data, &known) != nil || known.Error.Reason == "" {
		return ""
	}
	return ": " + reasonOf(known.Error)
}

func statusHint(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ": check user and password in its address, and that they may write to the index"
	case http.StatusNotFound:
		return ": check its address"
	}
	return ""
}

// reasonOf is why a store refused something, without the values that some of them
// quote: a job's output does not belong into the server's log.
func reasonOf(e bulkError) string {
	reason, _, _ := strings.Cut(e.Reason, "Preview of field's value")
	reason = strings.Join(strings.Fields(reason), " ")
	if len(reason) > 300 {
		reason = strings.ToValidUTF8(reason[:300], "") + "..."
	}
	if e.Type == "" {
		return reason
	}
	return e.Type + ": " + reason
}

// taken looks at what became of each document. What the store could not take now
// is to be sent again; what it will never take is left out.
func (s *store) taken(items []item, answer *bulkAnswer) ([]item, error) {
	if len(answer.Items) != len(items) {
		return items, fmt.Errorf("the store answers for %d documents of %d", len(answer.Items), len(items))
	}
	left := []item{}
	var why error
	for i, results := range answer.Items {
		for _, r := range results {
			switch {
			case r.Status >= 200 && r.Status < 300:
			case later(r):
				left = append(left, items[i])
				why = fmt.Errorf("%s does not take documents for %s: %d %s", s.name, r.Index, r.Status, reasonOf(r.Error))
			default:
				s.reject(fmt.Sprint(r.Index, " ", r.Status, " ", r.Error.Type), reasonOf(r.Error))
			}
		}
	}
	return left, why
}

// later reports whether a refusal is about the store (busy, full, closed for
// writing, not set up, not allowed) rather than about the document: then it will be
// taken when somebody has seen to that.
func later(r bulkResult) bool {
	switch r.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return slices.Contains(ofTheStore, r.Error.Type)
	}
	return true
}

// ofTheStore are errors that come with the status of a bad document and are none
// of its own.
var ofTheStore = []string{"cluster_block_exception", "index_closed_exception", "index_create_block_exception",
	"invalid_index_name_exception", "validation_exception"} // the last: it has as many shards as it may have
