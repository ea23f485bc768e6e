// Command peer is what the benchmarks measure the wrapper and the server against:
//
//	peer dial URL      an idle WebSocket client, with gorilla and nothing else
//	peer send ADDRESS  copies standard input to a TCP connection
//	peer store FILE    prints its address, and copies one TCP connection to a file
package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/gorilla/websocket"
)

func main() {
	var err error
	switch os.Args[1] {
	case "dial":
		err = dial(os.Args[2])
	case "send":
		err = send(os.Args[2])
	case "store":
		err = store(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial(url string) error {
	ws, _, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		return err
	}
	fmt.Println("connected")
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return nil // who measured us has hung up
		}
	}
}

func send(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return pass(c, os.Stdin)
}

func store(path string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return pass(f, c)
}

// pass copies by read and write: io.Copy would let the kernel do it.
func pass(to io.Writer, from io.Reader) error {
	block := make([]byte, 64<<10)
	for {
		n, err := from.Read(block)
		if n > 0 {
			if _, err := to.Write(block[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
