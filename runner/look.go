package runner

import "time"

// Tasks is the part of Status that memory alone answers: tasks that live, are
// lost, have leftovers or a standing kill.
func (r *Runner) Tasks() []TaskStatus { return r.tasks.status(time.Now()) }
