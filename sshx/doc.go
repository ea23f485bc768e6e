// Package sshx is an SSH client for a program that starts and stops things on
// many machines: the road that still works when the other one is cut. It runs one
// line on a machine, tells its end, its output and whether it may have run at all,
// and keeps connections for the next line, since a login costs two hundred
// milliseconds and a line on a live connection twenty.
//
// It knows nothing of what it carries: no jobs, no runs, no wrapper. Whoever knows
// lines and machines may come in; that is runner/launch, and cmd for the check of
// machines. What comes out of it goes to its caller only: it writes no file but the
// line of a host key that was accepted deliberately (AcceptHostKey), and logs to the
// logger that it was given.
//
// A host key is always checked. An unknown one and a changed one are two different
// errors with two different hints, and neither is ever worked around.
package sshx
