package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// confirm asks before something is destroyed. Where nobody can be asked, --yes
// must have been given.
func (c *cli) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if !c.StdinTerminal || !c.StderrTerminal {
		return usage("this can't be undone and there is no terminal to ask on: %s", question).WithHint("say --yes if that is what you want")
	}
	fmt.Fprintf(c.Stderr, "%s [y/N] ", harmless(question))
	answer := make(chan string, 1) // one answer, so that the reader can end even if nobody waits
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(c.Stdin, 1024)).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		if line == "y" || line == "yes" {
			return nil
		}
		return errors.New("nothing was done")
	case <-ctx.Done():
		fmt.Fprintln(c.Stderr)
		return ctx.Err()
	}
}
