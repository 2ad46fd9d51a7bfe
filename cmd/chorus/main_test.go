package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"
	"chorus/node"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"chorus": func() {
			reachWithin = time.Second
			main()
		},
		"chorus-talkative": func() { // says each step of long work
			plainEvery = 0
			main()
		},
	})
}

// scriptPatience is how long a script waits for what must happen in the end.
const scriptPatience = 30 * time.Second

// TestScripts runs the commands as a user does, each script in an empty folder. Besides testscript's own,
// the scripts have:
//
//	exits CODE COMMAND…      COMMAND ends with that exit code
//	capture NAME REGEXP      $NAME is what the group in REGEXP matched in the last stdout
//	await-node [HOME]        the node of HOME, or of $CHORUS_HOME, answers
//	await-use OFFER [HOME]   that node has OFFER's expert in its mixture
//	await-export OFFER [HOME]  that node has heard that another exported OFFER's expert
//	await-end OFFER [HOME]   that node has neither the expert nor its blob, and has said so
//	await-charter HOME REGEXP  "chorus charter show" on HOME says so
//	texts FILE WORD…         FILE is training text of sentences with these words
func TestScripts(t *testing.T) {
	home := func(ts *testscript.TestScript, args []string) node.Home {
		if len(args) > 0 {
			return node.Home(ts.MkAbs(args[0]))
		}
		return node.Home(ts.Getenv("CHORUS_HOME"))
	}
	stands := func(done func(node.Expert) bool) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, _ bool, args []string) {
			poll(ts, home(ts, args[1:]), func(s node.Status) bool {
				for _, e := range s.Experts {
					if e.Offer.String() == args[0] {
						return done(e)
					}
				}
				return false
			})
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					got = exit.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit code %d, expected %d\n%s", got, want, ts.ReadFile("stderr"))
				}
			},
			"capture": func(ts *testscript.TestScript, _ bool, args []string) {
				m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
				if m == nil {
					ts.Fatalf("stdout has no %s", args[1])
				}
				ts.Setenv(args[0], m[1])
			},
			"await-node": func(ts *testscript.TestScript, _ bool, args []string) {
				poll(ts, home(ts, args), func(node.Status) bool { return true })
			},
			"await-charter": func(ts *testscript.TestScript, _ bool, args []string) {
				says := regexp.MustCompile("(?m)" + args[1])
				poll(ts, home(ts, args[:1]), func(node.Status) bool {
					ts.Check(ts.Exec("chorus", "--home", args[0], "charter", "show"))
					return says.MatchString(ts.ReadFile("stdout"))
				})
			},
			"texts": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), sentences(args[1:]), 0o600))
			},
			"await-use":    stands(func(e node.Expert) bool { return e.InUse }),
			"await-export": stands(func(e node.Expert) bool { return len(e.Exported) > 0 }),
			"await-end": func(ts *testscript.TestScript, neg bool, args []string) {
				stands(func(e node.Expert) bool { return !e.InUse && !e.Held })(ts, neg, args)
				await(ts, home(ts, args[1:]), func(ctx context.Context, k node.Control) bool {
					a, err := k.Account(ctx)
					return err == nil && slices.ContainsFunc(a.Notices, func(n node.NoticeLine) bool { // its last word on it
						return n.Kind == string(notice.KindStatement) && strings.Contains(fmt.Sprint(n.Body), args[0])
					})
				})
			},
		},
	})
}

// sentences returns sixty lines of JSON with a text in each.
func sentences(words []string) []byte {
	rng := rand.New(rand.NewPCG(uint64(len(words)), uint64(len(words[0]))))
	word := func(all []string) string { return all[rng.IntN(len(all))] }
	verbs := []string{"finds", "follows", "hides", "keeps", "leaves", "likes", "sees"}
	var b bytes.Buffer
	for range 60 {
		b.WriteString(`{"text":"`)
		for range 4 {
			fmt.Fprintf(&b, "The %s %s the %s and the %s. ", word(words), word(verbs), word(words), word(words))
		}
		b.WriteString("\"}\n")
	}
	return b.Bytes()
}

// poll asks a node how it is until done is satisfied.
func poll(ts *testscript.TestScript, home node.Home, done func(node.Status) bool) {
	await(ts, home, func(ctx context.Context, k node.Control) bool {
		s, err := k.Status(ctx)
		return err == nil && done(s)
	})
}

// await asks a node until done is satisfied.
func await(ts *testscript.TestScript, home node.Home, done func(context.Context, node.Control) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptPatience)
	defer cancel()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		if k, err := node.Dial(ctx, home); err == nil && done(ctx, k) {
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			ts.Fatalf("%s: the node has not come to that in %v", home, scriptPatience)
		}
	}
}

// commands calls visit for every command that does something.
func commands(c *cobra.Command, visit func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		commands(sub, visit)
	}
	if c.HasParent() && !c.HasSubCommands() {
		visit(c)
	}
}

func TestHelpOfEveryCommandHasExamplesThatParse(t *testing.T) {
	root := (&app{ui: newUI(io.Discard, io.Discard)}).root()
	example := regexp.MustCompile(`(?m)\bchorus( [^|>\n]*)`)
	commands(root, func(c *cobra.Command) {
		var out, stderr strings.Builder
		if code := run(t.Context(), append(strings.Fields(c.CommandPath())[1:], "--help"), &out, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%s --help: exit code %d, %s", c.CommandPath(), code, stderr.String())
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || !strings.Contains(out.String(), "Examples:") {
			t.Errorf("the help of %s lacks a line or examples:\n%s", c.CommandPath(), out.String())
		}
		named := false
		for _, m := range example.FindAllStringSubmatch(c.Example, -1) {
			line, _, _ := strings.Cut(m[1], "  ") // words for people follow after two spaces
			args := words(strings.ReplaceAll(line, "12D3Koo…", "12D3KooWQ3fKxGW7NoPhgVWDaDC4ZTbNHMVsH95x34mRtYpSb8ZA"))
			of, rest, err := root.Find(args)
			if err == nil {
				err = of.ParseFlags(rest)
			}
			if err == nil {
				err = of.ValidateArgs(of.Flags().Args())
			}
			if err != nil {
				t.Errorf("example %q of %s: %v", m[0], c.CommandPath(), err)
			}
			named = named || of.Name() == c.Name()
		}
		if !named {
			t.Errorf("no example of %s shows it", c.CommandPath())
		}
	})
}

// words splits a line as a shell would, as far as our examples need.
func words(line string) (all []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		all = append(all, m[1]+m[2])
	}
	return all
}

func TestEveryHintFollowsOneErrorLine(t *testing.T) {
	t.Setenv("CHORUS_HOME", t.TempDir())
	for _, args := range []string{"status", "bogus", "publish x", "charter use nowhere"} {
		var out, stderr strings.Builder
		code := run(t.Context(), strings.Fields(args), &out, &stderr)
		lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
		if code == exitOK || out.Len() > 0 || !strings.HasPrefix(lines[0], "chorus: error: ") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", args, code, out.String(), lines)
		}
		for _, line := range lines[1:] {
			if !strings.HasPrefix(line, "chorus: hint: ") {
				t.Errorf("%s: line %q", args, line)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
	}{
		{nil, 0}, {errors.New("x"), 1}, {usageError{errors.New("x")}, 2}, {node.ErrNoHome, 1}, {node.ErrNoCharter, 1},
		{node.ErrNotRunning, 3}, {node.ErrNotSpread, 3}, {node.ErrNotReconciled, 3}, {context.Canceled, 130}, {os.ErrPermission, 1},
	} {
		code, hints := explain(tt.err)
		if code != tt.code || (len(hints) == 0) != (tt.err == nil || tt.err.Error() == "x" && code == 1) {
			t.Errorf("%v: exit code %d and the hints %q, expected %d", tt.err, code, hints, tt.code)
		}
	}
}
