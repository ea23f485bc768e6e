package config

// What can be written already and has no effect in this version. A line leaves
// here in the change that gives its key an effect.

// jobNotYet: active says whether the job's value asks for something that does
// not happen; instead is what happens.
var jobNotYet = []struct {
	key     string
	active  func(*Job) bool
	instead string
}{
	{"retries", func(j *Job) bool { return j.Retries > 0 }, "a failed run is not tried again"},
	{"retry_delay", func(j *Job) bool { return j.RetryDelay > 0 }, "a failed run is not tried again"},
	{"canary", func(j *Job) bool { return j.Canary > 0 }, "all batches are alike"},
	{"max_failures", func(j *Job) bool { return j.MaxFailures != Size{} }, "failures do not stop the rest of a run"},
	{"on_stop", func(j *Job) bool { return j.OnStop != "finish" }, "failures do not stop the rest of a run"},
	{"on_overlap", func(j *Job) bool { return j.OnOverlap == "replace" || j.OnOverlap == "wait" }, "the overlapping run is skipped"},
	{"on_lost", func(j *Job) bool { return j.OnLost != "wait" }, "the next run waits"},
	{"splay", func(j *Job) bool { return j.Splay > 0 }, "all machines start at once"},
	{"transport", func(j *Job) bool { return j.Transport == "salt" }, "a run fails, and says so"},
}

func (r *jobReader) notYet(body *value) {
	if r.bad {
		return
	}
	for _, n := range jobNotYet {
		if v := body.get(n.key); v != nil && n.active(&r.d.job) {
			r.warn(v, n.key, "is not yet in effect: "+n.instead, "")
		}
	}
}

// transportNotYet says what happens instead of a value of default_transport, ""
// if that is in effect.
func transportNotYet(transport string) string {
	if transport == "salt" {
		return "a run over it fails, and says so"
	}
	return ""
}
