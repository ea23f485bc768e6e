package config

import (
	"regexp"
	"sync"
)

// What a package does at its start, every wrapper pays for, and this package is
// linked into them and never used there. So its tables and patterns are made when
// they are first asked for, and lie in the binary as they are until then, which
// the functions of sync.OnceValue do not.

// lazy is a value that is made when it is first asked for.
type lazy[T any] struct {
	make  func() T
	once  sync.Once
	value T
}

func (l *lazy[T]) get() T {
	l.once.Do(func() { l.value = l.make() })
	return l.value
}

// pattern is a regular expression that is compiled when it is first asked for.
type pattern struct {
	text string
	once sync.Once
	re   *regexp.Regexp
}

func (p *pattern) get() *regexp.Regexp {
	p.once.Do(func() { p.re = regexp.MustCompile(p.text) })
	return p.re
}
