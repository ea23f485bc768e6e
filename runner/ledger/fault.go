package ledger

import (
	"errors"
	"time"
)

// failure is one of the store, as against an event that is refused: the whole
// transaction is in doubt.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}

func isFailure(err error) bool {
	var f *failure
	return errors.As(err, &f)
}

// Fault is that nothing can be recorded.
type Fault struct {
	Since time.Time
	Err   error
}

// Fault says what kept the last change from being recorded, nil if nothing did.
func (l *Ledger) Fault() *Fault { return l.fault.Load() }

// setFault is the writer's: the time of a fault is that of its first failure.
func (l *Ledger) setFault(err error) {
	was := l.fault.Load()
	switch {
	case err == nil && was == nil:
	case err == nil:
		l.fault.Store(nil)
	case was == nil:
		l.fault.Store(&Fault{Since: time.Now(), Err: err})
	default:
		l.fault.Store(&Fault{Since: was.Since, Err: err})
	}
}
