package runner

// selection is a Selector whose Name was resolved to a job or a run.
type selection struct {
	Selector
}
