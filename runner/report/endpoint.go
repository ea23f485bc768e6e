package report

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// endpoint is one address of a search engine. Its user and password are kept
// apart from the URL, so that they cannot get into a message.
type endpoint struct {
	url  string // without a slash at its end
	user *url.Userinfo
}

// parseEndpoint reads an address. What has no port is read as the existing
// program's library does: 9200, or 443 for https.
func parseEndpoint(text string) (endpoint, error) {
	full := text
	if !strings.Contains(text, "://") {
		full = "http://" + text
	}
	u, err := url.Parse(full)
	if err != nil {
		var known *url.Error
		if errors.As(err, &known) {
			err = known.Err // the error around it shows the whole URL
		}
		if _, after, secret := strings.Cut(full, "@"); secret {
			return endpoint{}, fmt.Errorf("the address that ends with %q is none: write http://user:password@host:9200, with what is special in user or password as %%XX", after)
		}
		return endpoint{}, fmt.Errorf("%q is no address: %w: write http://host:9200", text, err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return endpoint{}, fmt.Errorf("%q is no address: write http://host:9200 or https://host", u.Scheme+"://"+u.Host)
	}
	e := endpoint{user: u.User}
	host := u.Host
	if u.Port() == "" && u.Scheme == "http" {
		host = net.JoinHostPort(u.Hostname(), "9200")
	}
	e.url = u.Scheme + "://" + host + strings.TrimRight(u.EscapedPath(), "/")
	return e, nil
}

// authorize signs a request.
func (e endpoint) authorize(r *http.Request) {
	if e.user == nil {
		return
	}
	password, _ := e.user.Password()
	r.SetBasicAuth(e.user.Username(), password)
}

// CheckAddress says what is wrong with an address of a search engine; the text
// holds no secret.
func CheckAddress(text string) error {
	_, err := parseEndpoint(text)
	return err
}
