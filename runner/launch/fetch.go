package launch

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed fetch.sh
var fetchScript string

// fetchWord is what the line in front of a file's bytes begins with.
const fetchWord = "SPF"

// Fetch reads a piece of a file on the machine, by a script that finds, says how
// much comes, and sends it.
func (s *secureShell) Fetch(ctx context.Context, m Machine, name string, offset, max int64) ([]byte, error) {
	if !s.calls.enter() {
		return nil, ErrClosed
	}
	defer s.calls.leave()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", name, err)
	}
	if offset < 0 || max < 0 || !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("cannot fetch %q from byte %d, %d bytes: not a piece of a file", name, offset, max)
	}
	mark := rand.Text()
	script := fmt.Sprintf("f_mark=%s\nf_path=%s\nf_offset=%d\nf_max=%d\n", mark, shellQuote(name), offset, min(max, maxFetch)) +
		withoutComments(fetchScript)
	var data []byte
	var refused error
	err := s.shell(ctx, m, []byte(script), func(r io.Reader) (err error) {
		data, refused, err = readPiece(r, mark)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", name, err)
	}
	return data, nil
}

// readPiece finds the marked line and reads as many bytes behind it as it says. What
// a login prints before it, and a logout after it, is not taken for the file's.
// refused is the machine's answer that there is nothing to read.
func readPiece(r io.Reader, mark string) (data []byte, refused, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	prefix := fetchWord + " mark=" + mark + " "
	for seen := 0; seen < maxNoise; {
		line, err := b.ReadSlice('\n')
		seen += len(line)
		answer, ours := strings.CutPrefix(strings.TrimRight(string(line), "\r\n"), prefix)
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, errNoAnswer
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, nil, err
		case !ours:
			continue
		}
		if why, ok := strings.CutPrefix(answer, "why="); ok {
			return nil, noPiece(why), nil
		}
		data, err := readCounted(b, answer)
		return data, nil, err
	}
	return nil, nil, errNoise
}

func noPiece(why string) error {
	switch why {
	case "missing":
		return fs.ErrNotExist
	case "denied":
		return fs.ErrPermission
	case "odd":
		return errors.New("it is not a plain file")
	}
	return fmt.Errorf("the machine says %q", clip(why))
}

func readCounted(r io.Reader, answer string) ([]byte, error) {
	word, value, _ := strings.Cut(answer, "=")
	n, err := strconv.ParseInt(value, 10, 64)
	if word != "send" || err != nil || n < 0 || n > maxFetch {
		return nil, fmt.Errorf("cannot read the answer of fetch.sh: %q", clip(answer))
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("it broke off: %w", err)
	}
	return data, nil
}
