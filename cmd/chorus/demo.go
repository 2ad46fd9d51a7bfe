package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"chorus/durable"
	"chorus/model/eval/leak"
	"chorus/node"
	"chorus/node/openai"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

// A demo is a consortium on this machine: a steward that trains the anchor, and a member for each
// domain. Every step leaves its result in the members' data folders, so that a demo which was
// interrupted goes on where it was.
type demo struct {
	*app
	dir     string
	seed    uint64
	public  domain
	steward *participant
	members []*participant // by domain
	report  demoReport
}

// A participant is one member of the demo, with a full node.
type participant struct {
	name   string
	home   node.Home
	domain domain
	node   *node.Node

	text  encoded
	offer cid.Cid
}

// demoReport is what the demo measured, as --json prints it.
type demoReport struct {
	Seed        uint64                  `json:"seed"`
	Domains     []string                `json:"domains"`
	BitsPerByte []bitsRow               `json:"bits_per_byte"`
	Audits      map[string]leak.Outcome `json:"audits"` // by domain
	Answers     []demoAnswer            `json:"answers"`
	Revocation  demoRevocation          `json:"revocation"`
	Seconds     map[string]float64      `json:"seconds"` // by step
}

type demoAnswer struct {
	Domain string         `json:"domain"`
	Prompt string         `json:"prompt"`
	Text   string         `json:"text"`
	Shares []openai.Share `json:"shares"`
}

func (a *app) demoCommand() *cobra.Command {
	var data []string
	var keep bool
	d := &demo{app: a}
	c := &cobra.Command{
		Use:   "demo",
		Short: "See the whole of chorus on this machine, in three minutes",
		Long: `Runs a consortium on this machine: a steward that trains a public anchor, and members that each
train an expert on text of their own, publish it, assemble a mixture, answer questions, and see
one of them revoke. Each is a full node with its own keys, data folder, network host and ledger.

The text is from the Go distribution, unless you name your own. Interrupted, the demo goes on where it
was when it is run again.`,
		Example: `  chorus demo
  chorus demo --keep                                    then: chorus ask "The rays of light"
  chorus demo --data law=./cases --data press=./news    your own text, in a folder of its own
              --dir my-demo`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return d.run(c.Context(), data, keep) },
	}
	c.Flags().StringVar(&d.dir, "dir", "chorus-demo", "folder for the members' data folders")
	c.Flags().Uint64Var(&d.seed, "seed", 1, "seed of all training")
	c.Flags().StringArrayVar(&data, "data", nil, "NAME=PATH: a member's text, or public=PATH for the anchor's (repeatable)")
	c.Flags().BoolVar(&keep, "keep", false, "keep serving at the end, until Ctrl-C")
	return c
}

func (d *demo) run(ctx context.Context, data []string, keep bool) (err error) {
	if err := d.prepare(data); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for i, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"The anchor: a public model that everyone starts from", d.trainAnchor},
		{"Experts: each member trains on text that stays with it", d.trainExperts},
		{"Audit: each member looks for what its expert gives away of its text", d.audit},
		{"Publish: signed offers and leases; experts travel as blobs", d.publish},
		{"Assemble: every node makes its own mixture", d.assemble},
		{"Ask: local programs use a node over the OpenAI protocol", d.ask},
		{"Revoke: one member leaves while answers are being written", d.revoke},
	} {
		d.say("\n%d. %s", i+1, step.title)
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return err
		}
		d.report.Seconds[strings.ToLower(step.title[:strings.IndexByte(step.title, ':')])] = time.Since(began).Seconds()
	}
	return d.finish(ctx, keep)
}

// prepare decides who takes part, and on what text, and holds the folder to it.
func (d *demo) prepare(data []string) error {
	given, err := parseData(data)
	if err != nil {
		return err
	}
	var domains []domain
	for _, g := range given {
		if g.name == publicDomain {
			d.public = g
		} else {
			domains = append(domains, g)
		}
	}
	if d.public.name == "" || len(domains) == 0 {
		public, standard, err := goDomains()
		if err != nil {
			return err
		}
		if d.public.name == "" {
			d.public = public
		}
		if len(domains) == 0 {
			domains = standard
		}
	}
	d.report.Seed, d.report.Seconds = d.seed, make(map[string]float64)
	d.steward = &participant{name: "commons", home: node.Home(filepath.Join(d.dir, "commons"))}
	for _, dom := range domains {
		d.report.Domains = append(d.report.Domains, dom.name)
		name := "house-of-" + dom.name
		d.members = append(d.members, &participant{name: name, home: node.Home(filepath.Join(d.dir, name)), domain: dom})
	}
	return d.holdTo(fmt.Sprintf("seed %d, public %q, members %v", d.seed, d.public.paths, domains))
}

// holdTo refuses to go on in a folder that was begun with other settings.
func (d *demo) holdTo(settings string) error {
	path := filepath.Join(d.dir, "settings")
	old, err := os.ReadFile(path)
	if err == nil && string(old) != settings {
		return withHint(fmt.Errorf("%s holds a demo of other text or another seed", d.dir), "use another folder with --dir, or remove it")
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, durable.Bytes([]byte(settings)))
}

func (d *demo) everyone() []*participant { return append([]*participant{d.steward}, d.members...) }

func (d *demo) stop() error {
	var wg sync.WaitGroup
	errs := make([]error, len(d.members)+1)
	for i, p := range d.everyone() {
		if p.node != nil {
			wg.Go(func() { errs[i] = p.node.Close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d *demo) finish(ctx context.Context, keep bool) error {
	home := d.steward.home
	err := d.result(d.report, func() {
		d.say("\nWhat next")
		d.say("   %s holds the members' data folders. Look inside one:", d.dir)
		d.say("     chorus experts --home %s", home)
		d.say("     chorus ledger --home %s", home)
		d.say("   Bring it up again, and ask it from a second terminal:")
		d.say("     chorus up --home %s", home)
		d.say("     chorus ask --home %s \"The rays of light\"", home)
		d.say("   Begin a consortium of your own: chorus init --help")
		d.say("   (In a clone of the source, chorus is `go run ./cmd/chorus`. With --keep the demo goes on serving.)")
	})
	if err != nil || !keep {
		return err
	}
	base, err := d.endpoint(d.steward)
	if err != nil {
		return err
	}
	d.say("\nServing at %s/v1 until Ctrl-C. From a second terminal: chorus ask \"The rays of light\"", base)
	<-ctx.Done()
	return nil
}
