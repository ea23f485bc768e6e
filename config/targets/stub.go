// Package targets tells which machines an expression names. It is pure: no I/O,
// no YAML, nothing of Salt.
package targets

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

// Machine is what expressions are matched against.
type Machine struct {
	Name   string
	Grains map[string]any // strings, numbers, bools, lists, nested maps
}

// Types are the target types that this program matches itself; SaltOnly those
// that only Salt can.
var (
	Types    = []string{"glob", "pcre", "list", "grain", "compound"}
	SaltOnly = []string{"pillar", "nodegroup", "range", "ipcidr", "pillar_pcre", "grain_pcre", "data"}
)

// Expr is a checked expression.
type Expr struct{}

// Parse checks an expression of a type. Errors say what is wrong at which
// character and what to write instead.
func Parse(kind, text string) (*Expr, error) { panic("stub") }

// Match reports whether the expression names the machine.
func (e *Expr) Match(m Machine) bool { panic("stub") }
