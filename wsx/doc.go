// Package wsx is the road that is normally taken: WebSocket connections between
// wrappers and the server, with their acknowledgements, deadlines and
// reconnects, and a plain message connection for the API's /ws.
//
// A wrapper comes in through a Link, the server's wing through a Server and the
// Handler it puts behind it, the API through Upgrade. What arrives goes to the
// Handler's sessions (on the server) or to the Link's owner (in a wrapper); the
// words themselves are those of wsx/wire. The room knows no jobs, no disks, no
// processes and no policy: what a token opens, what an output is kept in and
// what a kill means is decided by those who use it.
package wsx
