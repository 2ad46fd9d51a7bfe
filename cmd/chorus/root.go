package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/node"

	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/spf13/cobra"
)

// An app is what every command shares.
type app struct {
	*ui
	home    string
	verbose bool
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, out, err io.Writer) int {
	a := &app{ui: newUI(out, err)}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(err)
	c, failed := root.ExecuteContextC(ctx)
	if errors.As(failed, new(usageError)) {
		hints := []string{fmt.Sprintf("see `%s --help`", c.CommandPath())}
		if hinted := (*hintedError)(nil); errors.As(failed, &hinted) {
			hints = append(slices.Clone(hinted.hints), hints...)
		}
		failed = withHint(failed, hints...)
	}
	return a.fail(failed)
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "chorus",
		Short: "Share what your data taught a language model, and never the data",
		Long: `chorus is a peer-to-peer network in which organisations share what their data taught a
language model, and never the data. Each member trains an expert on private text against a
shared public anchor, offers it under a lease, and runs a mixture of every expert whose owner
still consents. An owner can leave at any moment.

Exit codes: 0 done, 1 it went wrong, 2 the command line makes no sense, 3 no other member or no
node could be reached, 130 interrupted.`,
		Example: `  chorus demo                          see all of it, on this machine, in three minutes
  chorus join CODE                     join a consortium that has invited you
  chorus init hub                      make a data folder and keys, to found one
  chorus up                            run the node
  chorus ask "The patient presented"   ask the node's mixture`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentPreRun = func(*cobra.Command, []string) {
		if !a.verbose { // else libp2p's own logger writes to stderr
			gologshim.SetDefaultHandler(slog.DiscardHandler)
		}
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	group(c)
	home := os.Getenv("CHORUS_HOME")
	if home == "" {
		if dir, err := os.UserHomeDir(); err == nil {
			home = filepath.Join(dir, ".chorus")
		}
	}
	flags := c.PersistentFlags()
	flags.StringVar(&a.home, "home", home, "the node's data folder (or $CHORUS_HOME)")
	flags.BoolVar(&a.json, "json", false, "print JSON, for programs")
	flags.BoolVar(&a.verbose, "verbose", false, "log what the node does to stderr")
	for _, sub := range []*cobra.Command{
		a.demoCommand(), a.initCommand(), a.inviteCommand(), a.joinCommand(), a.charterCommand(), a.leaveCommand(), a.tokenizerCommand(), a.anchorCommand(), a.upCommand(), a.trainCommand(), a.expertCommand(), a.exportCommand(),
		a.auditCommand(), a.publishCommand(), a.revokeCommand(), a.keyCommand(), a.recoveryCommand(), a.askCommand(), a.expertsCommand(), a.ledgerCommand(), a.evalCommand(), a.valueCommand(), a.statusCommand(), a.doctorCommand(),
	} {
		c.AddCommand(sub)
	}
	return c
}

// group makes c a command of commands: alone it shows its help, and a name it does not know is a usage error.
func group(c *cobra.Command) {
	c.Args = args(cobra.NoArgs)
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// args makes a positional-argument check a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		err := check(c, given)
		switch {
		case err == nil:
			return nil
		case c.HasSubCommands():
			return usageError{err}
		}
		if len(given) == 0 {
			return usageError{fmt.Errorf("something is missing: `%s`", c.UseLine())}
		}
		return usageError{fmt.Errorf("`%s` does not go with %s", c.UseLine(), strings.Join(given, " "))}
	}
}

func (a *app) node() node.Home { return node.Home(a.home) }

// logger logs to stderr: everything with --verbose, else only what a person must act on.
func (a *app) logger() *slog.Logger {
	level := slog.LevelError
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// control calls do with the home's running node, or if none runs, with one that it starts for the
// occasion, which does not serve.
func (a *app) control(ctx context.Context, do func(node.Control) error) (err error) {
	client, err := node.Dial(ctx, a.node())
	if err == nil {
		return do(client)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return err
	}
	n, err := node.New(ctx, a.node(), node.Options{Log: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return do(n)
}

// status is what is known without disturbing anything: from the running node, or if none runs, from
// its ledger.
func (a *app) status(ctx context.Context) (s node.Status, account node.Account, err error) {
	client, err := node.Dial(ctx, a.node())
	if err == nil {
		if s, err = client.Status(ctx); err == nil {
			account, err = client.Account(ctx)
		}
		return s, account, err
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return s, account, err
	}
	config, err := a.node().Config()
	if err != nil {
		return s, account, err
	}
	l, err := a.node().OpenLedger()
	if err != nil {
		return s, account, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s = node.OfflineStatus(a.node(), config.Member, l)
	account, err = node.ReadAccount(l)
	return s, account, err
}
