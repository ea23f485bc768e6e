package api

import (
	"net/http"
	"net/url"
)

// allowOrigin lets the pages of listed origins read answers, and answers what a
// browser asks before it sends more than the simplest requests. Whether the request
// itself is let through is decided by identify, as ever.
func (s *Server) allowOrigin(w http.ResponseWriter, r *http.Request) (answered bool) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	u, err := url.Parse(origin)
	hosts := s.set().Settings.APIAllowedHosts
	if err != nil || u.Host == "" || !named(hosts, u.Host) || len(r.Header["Origin"]) > 1 {
		return false
	}
	if !ownHost(r.Host, append([]string{s.set().Settings.ServerHost}, hosts...)) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
