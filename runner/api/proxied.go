package api

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// A proxy on this machine reaches the TCP port from a loopback address, as this
// machine's own users do, and what it hands on may come from anywhere. Most proxies
// say that they are one, or show it.

// proxyHeaders are those that proxies add and clients do not; beside them all that
// begin with X-Forwarded.
var proxyHeaders = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "Client-Ip", "True-Client-Ip", "X-Cluster-Client-Ip", "X-Remote-Addr", "X-Remote-Ip", "X-Originating-Ip",
	"X-Original-Forwarded-For", "X-Original-Host", "X-Original-Url", "X-Rewrite-Url", "X-Host", "X-Scheme", "X-Url-Scheme", "X-Proxyuser-Ip", "X-Nginx-Proxy",
	"Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Ray", "Cdn-Loop", "Fastly-Client-Ip", "X-Azure-Clientip", "X-Azure-Socketip", "X-Appengine-User-Ip",
	"X-Envoy-External-Address", "X-Envoy-Internal", "Proxy-Connection",
}

// handedOn says by what a request shows that a proxy handed it on; "" where nothing
// shows it. server is the name that wrappers dial, which is this machine's too.
func handedOn(r *http.Request, server string) string {
	for _, h := range proxyHeaders {
		if _, there := r.Header[h]; there {
			return "the header " + h
		}
	}
	for h := range r.Header {
		if strings.HasPrefix(h, "X-Forwarded") {
			return "the header " + h
		}
	}
	if !r.ProtoAtLeast(1, 1) { // what nginx speaks to those behind it unless it is told otherwise; clients have long stopped
		return fmt.Sprintf("HTTP/%d.%d", r.ProtoMajor, r.ProtoMinor)
	}
	if !thisMachine(r.Host, server) {
		return fmt.Sprintf("the Host %q", hostOnly(r.Host))
	}
	for _, origin := range r.Header["Origin"] {
		// The page was fetched from elsewhere, and its server sends the page's requests on.
		if u, err := url.Parse(origin); err == nil && !thisMachine(u.Host, server) {
			return fmt.Sprintf("the Origin %q", origin)
		}
	}
	return ""
}

// thisMachine reports whether a host is what a client on this machine, coming from a
// loopback address, may call it.
func thisMachine(hostport, server string) bool {
	host := strings.TrimSuffix(hostOnly(hostport), ".")
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return host == "" || ownName(host) || server != "" && strings.EqualFold(host, server)
}
