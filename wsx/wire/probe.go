package wire

// Probe is what `saltpeter wrap --probe` is asked on standard input: whether the
// machine can dial the server at each of these.
type Probe struct {
	URLs []string `json:"urls,omitempty"` // ws:// or wss://HOST:PORT
	Pin  string   `json:"pin,omitempty"`
}

// Probed is what it answers, as one line of JSON behind its version.
type Probed struct {
	Time  string       `json:"time"` // the machine's clock
	UID   int          `json:"uid"`
	Dials []ProbedDial `json:"dials"`
}

// ProbedDial is what came of one URL; no Error: a server answered there.
type ProbedDial struct {
	URL   string `json:"url"`
	Error string `json:"error,omitempty"`
}
