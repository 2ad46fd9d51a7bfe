package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/train"
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
	Seed        uint64             `json:"seed"`
	Domains     []string           `json:"domains"`
	BitsPerByte []bitsRow          `json:"bits_per_byte"`
	Answers     []demoAnswer       `json:"answers"`
	Revocation  demoRevocation     `json:"revocation"`
	Seconds     map[string]float64 `json:"seconds"` // by step
}

type demoAnswer struct {
	Domain string         `json:"domain"`
	Prompt string         `json:"prompt"`
	Text   string         `json:"text"`
	Shares []openai.Share `json:"shares"`
}

type demoRevocation struct {
	Domain       string         `json:"domain"`
	Member       string         `json:"member"`
	Nodes        []demoObserved `json:"nodes"`
	BitsBefore   float64        `json:"bits_before"` // per byte of the domain's held-out text
	BitsAfter    float64        `json:"bits_after"`
	BitsAnchor   float64        `json:"bits_anchor"`
	StillServing []string       `json:"still_serving"` // members that would serve the blob
}

// demoObserved is what one node did about the revocation.
type demoObserved struct {
	Node           string  `json:"node"`
	LastTokenMS    float64 `json:"last_token_ms"` // with the expert, after the command; negative: before it
	TokensBefore   int     `json:"tokens_before"` // of the stream under way, with the expert
	TokensAfter    int     `json:"tokens_after"`  // and without
	BlobGone       bool    `json:"blob_gone"`
	NoticeInLedger bool    `json:"notice_in_ledger"`
	Frozen         bool    `json:"frozen"` // its recorded use did not grow any more
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
	return d.holdTo(fmt.Sprintf("seed %d, public %q, members %q", d.seed, d.public.paths, domains))
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
	return os.WriteFile(path, []byte(settings), 0o600)
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

func (d *demo) trainAnchor(ctx context.Context) error {
	d.say("   %s trains on %s.", d.steward.name, d.public.words)
	dir := filepath.Join(d.steward.home.Training(), "anchor")
	if exists(dir) {
		d.say("   It was trained before: using %s.", dir)
	}
	if err := d.trainAnchorIn(ctx, dir); err != nil {
		return err
	}
	anchor, tok, err := model.LoadAnchor(dir)
	if err != nil {
		return err
	}
	d.steward.domain = d.public
	for _, p := range d.everyone() {
		if p.text, err = encodeCorpus(p.domain, anchor, tok); err != nil {
			return err
		}
	}
	bits, err := d.steward.text.bitsPerByte(model.NewMixture(anchor))
	if err != nil {
		return err
	}
	d.say("   %s parameters, vocabulary of %d; %.3f bits per byte on held-out public text.", thousands(anchor.Parameters()), anchor.Config.VocabSize, bits)
	return d.found(ctx, dir)
}

func (d *demo) trainAnchorIn(ctx context.Context, dir string) error {
	return d.app.trainAnchor(ctx, d.public, train.AnchorRecipe(d.seed), dir)
}

// found makes the members' data folders and the charter, with the anchor in it, and starts the nodes.
func (d *demo) found(ctx context.Context, anchor string) error {
	ports, err := freePorts(2 * (len(d.members) + 1))
	if err != nil {
		return err
	}
	var cards []notice.Member
	for i, p := range d.everyone() {
		config := node.Config{
			Member: p.name, Peers: []string{},
			Listen: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ports[2*i])},
			API:    fmt.Sprintf("127.0.0.1:%d", ports[2*i+1]),
		}
		if p == d.steward && canListen(defaultAPI) {
			config.API = defaultAPI
		}
		if err := p.home.Init(config); err != nil {
			return err
		}
		card, err := p.home.Member(p.name)
		if err != nil {
			return err
		}
		if p != d.steward {
			cards = append(cards, card)
		}
	}
	charter, err := d.steward.home.LoadCharter()
	if errors.Is(err, node.ErrNoCharter) {
		id, err := d.steward.home.ImportAnchor(ctx, anchor)
		if err != nil {
			return err
		}
		founder := &app{ui: d.ui, home: string(d.steward.home)}
		if charter, err = founder.foundCharter("chorus-demo", id, leaseSeconds, cards); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, p := range d.everyone() {
		if err := p.home.SetCharter(charter); err != nil {
			return err
		}
		if err := d.start(ctx, p); err != nil {
			return err
		}
	}
	d.say("   Charter %s, signed by its steward, names the anchor %s and %d members.", short(charter.CID), short(charter.Body.(*notice.Charter).Anchor), len(cards)+1)
	return nil
}

// start runs a participant's node, with addresses that are free now and the steward as first contact.
func (d *demo) start(ctx context.Context, p *participant) error {
	config, err := p.home.Config()
	if err != nil {
		return err
	}
	if p != d.steward {
		config.Peers = d.steward.node.Host().Addrs()
		if err := p.home.SetConfig(config); err != nil {
			return err
		}
	}
	p.node, err = node.New(ctx, p.home, node.Options{Serve: true, Log: d.logger().With(slog.String("node", p.name))})
	if errors.As(err, new(*net.OpError)) {
		return withHint(err, "another demo may be running: end it, or use another folder with --dir")
	}
	return err
}

// freePorts asks the system for n TCP ports on loopback that nobody uses.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func canListen(address string) bool {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func (d *demo) trainExperts(ctx context.Context) error {
	for _, p := range d.members {
		d.say("   %s trains on %s.", p.name, p.domain.words)
		if exists(reportPath(p.home.ExpertPath(p.domain.name))) {
			d.say("   It was trained before: using %s.", p.home.ExpertPath(p.domain.name))
		}
		m, err := d.trainExpert(ctx, p.home, p.domain, d.public, train.ExpertRecipe(d.seed))
		if err != nil {
			return err
		}
		d.say("   Its own held-out text: anchor %.3f, with its expert %.3f bits per byte.", m.AnchorBitsPerByte, m.ExpertBitsPerByte)
	}
	return nil
}

func (d *demo) publish(ctx context.Context) error {
	for _, p := range d.members {
		owner := &app{ui: d.ui, home: string(p.home)}
		pub, err := owner.publication(p.domain.name, "Apache-2.0")
		if err != nil {
			return err
		}
		if p.offer, err = p.node.Publish(ctx, pub); err != nil {
			return err
		}
		n, err := p.node.Ledger().Get(p.offer)
		if err != nil {
			return err
		}
		o := n.Body.(*notice.Offer)
		d.say("   %-18s offer %s, expert %s, %s, leased for 24 hours", p.name, short(p.offer), short(o.Blob), megabytes(o.Size))
	}
	return nil
}

func (d *demo) assemble(ctx context.Context) error {
	began := time.Now()
	for _, p := range d.everyone() {
		if err := d.await(ctx, p, "admit every expert", func() bool { return len(p.node.Mixture().Experts) == len(d.members) }); err != nil {
			return err
		}
	}
	d.say("   %d nodes fetched and verified what they lacked, and admitted %d experts each: %v.", len(d.members)+1, len(d.members), time.Since(began).Round(time.Millisecond))

	anchor, _ := d.steward.node.Anchor()
	var experts []namedExpert
	for _, p := range d.members {
		e, err := model.LoadExpert(p.home.ExpertPath(p.domain.name), anchor.Config)
		if err != nil {
			return err
		}
		experts = append(experts, namedExpert{p.domain.name, e})
	}
	var texts []namedText
	for _, p := range d.everyone() {
		texts = append(texts, namedText{p.domain.name, p.text})
	}
	var err error
	d.report.BitsPerByte, err = d.compare(ctx, anchor, experts, d.steward.node.Mixture().Mixture, texts)
	if err == nil && !d.json {
		d.say("   Bits per byte of text that no model was trained on (fewer is better):\n")
		d.showBits(d.report.BitsPerByte, texts)
	}
	return err
}

// promptBytes is about how long a prompt is, and promptChoice among how many it is chosen.
const (
	promptBytes  = 400
	promptChoice = 8
)

// prompt is a passage from the middle of a held-out document of p's domain: of the first few, the one
// that the mixture predicts better than the anchor by the most.
func (d *demo) prompt(p *participant) (prompt string, err error) {
	c, err := p.domain.read()
	if err != nil {
		return "", err
	}
	anchor, tok := d.steward.node.Anchor()
	most := math.Inf(-1)
	for _, doc := range c.Heldout[:min(promptChoice, len(c.Heldout))] {
		text := doc[len(doc)/2:]
		text = text[strings.IndexByte(text, '\n')+1:]
		if len(text) > promptBytes {
			text = text[:strings.LastIndexAny(text[:promptBytes], " \n\t")+1]
		}
		passage := encoded{heldout: train.Encode([]string{text}, tok.Encode, anchor.Config.EOS, 0)}
		before, err := passage.bitsPerByte(model.NewMixture(anchor))
		if err != nil {
			continue // too short
		}
		after, err := passage.bitsPerByte(d.steward.node.Mixture().Mixture)
		if err != nil {
			return "", err
		}
		if before-after > most {
			prompt, most = text, before-after
		}
	}
	if prompt == "" {
		return "", fmt.Errorf("%s: the held-out documents are too short to ask about", p.domain.name)
	}
	return prompt, nil
}

func (d *demo) endpoint(p *participant) (string, error) {
	s, err := p.node.Status(context.Background())
	return s.API, err
}

func (d *demo) ask(ctx context.Context) error {
	base, err := d.endpoint(d.steward)
	if err != nil {
		return err
	}
	d.say("   %s serves POST %s/v1/completions. Each prompt is a held-out passage.", d.steward.name, base)
	for _, p := range d.members {
		prompt, err := d.prompt(p)
		if err != nil {
			return err
		}
		seed := int64(d.seed)
		answer := demoAnswer{Domain: p.domain.name, Prompt: prompt}
		answer.Shares, err = ask(ctx, base, question{Model: "chorus", Prompt: prompt, MaxTokens: 48, Temperature: 0.6, TopP: 0.9, Seed: &seed, Stream: true},
			func(s string, _ []openai.Share) { answer.Text += s })
		if err != nil {
			return err
		}
		d.report.Answers = append(d.report.Answers, answer)
		d.say("\n   %s\n%s\n   %s", p.domain.name, quote(prompt, answer.Text), shareLine(answer.Shares))
	}
	return nil
}

// quote shows the end of a prompt and the answer to it, set in.
func quote(prompt, answer string) string {
	if i := len(prompt) - 120; i > 0 {
		prompt = "…" + strings.ToValidUTF8(prompt[i:], "")
	}
	text := prompt + "▸" + answer
	return "     | " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n     | ")
}

// A stream is a long answer that a node writes while the revocation happens.
type stream struct {
	with, without int // tokens, with and without the expert
	err           error
}

func (d *demo) revoke(ctx context.Context) error {
	leaver := d.members[len(d.members)-1]
	rep := &d.report.Revocation
	rep.Domain, rep.Member = leaver.domain.name, leaver.name
	signed, err := leaver.node.Ledger().Get(leaver.offer)
	if err != nil {
		return err
	}
	blob := signed.Body.(*notice.Offer).Blob
	if rep.BitsBefore, err = leaver.text.bitsPerByte(d.steward.node.Mixture().Mixture); err != nil {
		return err
	}
	prompt, err := d.prompt(leaver)
	if err != nil {
		return err
	}
	d.say("   Every node is writing a long answer in %s's domain when %s revokes.", leaver.name, leaver.name)

	// Each answer is well under way before the revocation, and goes on for a while after it.
	const before, after, length = 60, 60, 800
	streams := make([]stream, len(d.members)+1)
	started := make(chan struct{}, len(streams))
	var wg sync.WaitGroup
	for i, p := range d.everyone() {
		base, err := d.endpoint(p)
		if err != nil {
			return err
		}
		wg.Go(func() {
			s := &streams[i]
			for s.err == nil && s.without < after { // an answer may end by itself: ask again
				_, s.err = ask(ctx, base, question{Model: "chorus", Prompt: prompt, MaxTokens: length, Temperature: 1, TopP: 1, Stream: true},
					func(_ string, shares []openai.Share) {
						if slices.ContainsFunc(shares, func(x openai.Share) bool { return x.Offer == leaver.offer.String() }) {
							s.with++
						} else {
							s.without++
						}
						if s.with+s.without == before {
							started <- struct{}{}
						}
					})
			}
			if s.with+s.without < before {
				started <- struct{}{} // it failed
			}
		})
	}
	for range streams {
		select {
		case <-started:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	commanded := time.Now()
	revocation, err := leaver.node.Revoke(ctx, leaver.offer, "the demo's member leaves")
	if err != nil {
		return err
	}
	for _, p := range d.everyone() {
		if err := d.await(ctx, p, "drop the revoked expert", func() bool {
			return !uses(p.node.Mixture(), leaver.offer) && !p.node.Blobs().Has(blob)
		}); err != nil {
			return err
		}
	}
	wg.Wait()
	used := make([]uint64, len(streams))
	for i, p := range d.everyone() {
		if streams[i].err != nil {
			return fmt.Errorf("%s: the stream broke: %w", p.name, streams[i].err)
		}
		if used[i], err = usageOf(p.node.Ledger(), blob); err != nil {
			return err
		}
	}
	if rep.BitsAfter, err = leaver.text.bitsPerByte(d.steward.node.Mixture().Mixture); err != nil {
		return err
	}
	anchor, _ := d.steward.node.Anchor()
	if rep.BitsAnchor, err = leaver.text.bitsPerByte(model.NewMixture(anchor)); err != nil {
		return err
	}
	if rep.StillServing, err = leaver.node.Host().Holders(ctx, blob); err != nil {
		return err
	}
	for i, p := range d.everyone() {
		base, err := d.endpoint(p)
		if err != nil {
			return err
		}
		if _, err := ask(ctx, base, question{Model: "chorus", Prompt: prompt, MaxTokens: 8, TopP: 1, Stream: true}, func(string, []openai.Share) {}); err != nil {
			return err
		}
		_, missing := p.node.Ledger().Get(revocation)
		now, err := usageOf(p.node.Ledger(), blob)
		if err != nil {
			return err
		}
		rep.Nodes = append(rep.Nodes, demoObserved{
			Node: p.name, LastTokenMS: float64(p.node.LastUsed(leaver.offer).Sub(commanded).Microseconds()) / 1000,
			TokensBefore: streams[i].with, TokensAfter: streams[i].without,
			BlobGone: !p.node.Blobs().Has(blob), NoticeInLedger: missing == nil, Frozen: now == used[i],
		})
	}
	d.showRevocation()
	return nil
}

// patience is how long the demo waits for a node to do what takes it a moment.
const patience = time.Minute

// await waits for p's node to come to a state.
func (d *demo) await(ctx context.Context, p *participant, what string, done func() bool) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.node.Await(waiting, done)
	if err != nil && ctx.Err() == nil {
		return withHint(fmt.Errorf("%s did not %s within %v", p.name, what, patience), "run the demo again with --verbose to see what the nodes do")
	}
	return err
}

func uses(m *node.Mixture, offer cid.Cid) bool {
	return slices.ContainsFunc(m.Experts, func(a node.Admitted) bool { return a.Offer == offer })
}

// usageOf returns the router weight that a ledger has on record for a blob.
func usageOf(l *ledger.Ledger, blob cid.Cid) (uint64, error) {
	usage, err := l.Usage()
	for _, u := range usage {
		if u.Expert == blob {
			return u.Weight, err
		}
	}
	return 0, err
}

func (d *demo) showRevocation() {
	if d.json {
		return
	}
	r := &d.report.Revocation
	rows := [][]string{{"node", "last token with it", "tokens with / without it", "blob", "notice", "attribution"}}
	for _, n := range r.Nodes {
		rows = append(rows, []string{
			n.Node, fmt.Sprintf("%+.1f ms", n.LastTokenMS), fmt.Sprintf("%d / %d", n.TokensBefore, n.TokensAfter),
			choose(n.BlobGone, "gone", "STILL THERE"), choose(n.NoticeInLedger, "in the ledger", "MISSING"), choose(n.Frozen, "frozen", "STILL GROWING"),
		})
	}
	d.say("")
	d.table(rows)
	d.say("\n   Times count from the command to the end of the last token that the expert took part in.")
	d.say("   No answer broke off: each went on without it. Members that still serve the blob: %s.", list(r.StillServing))
	d.say("   Bits per byte of held-out %s: %.3f with the expert, %.3f without (the anchor alone: %.3f).", r.Domain, r.BitsBefore, r.BitsAfter, r.BitsAnchor)
}

func choose(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func (d *demo) finish(ctx context.Context, keep bool) error {
	base, err := d.endpoint(d.steward)
	if err != nil {
		return err
	}
	if d.json {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		if err := e.Encode(d.report); err != nil {
			return err
		}
		if _, err := d.out.Write(b.Bytes()); err != nil {
			return err
		}
	}
	home := string(d.steward.home)
	d.say("\nWhat next")
	d.say("   %s holds the members' data folders. Look inside one:", d.dir)
	d.say("     chorus experts --home %s", home)
	d.say("     chorus ledger  --home %s", home)
	d.say("   Bring it up again, and ask it from a second terminal:")
	d.say("     chorus up      --home %s", home)
	d.say("     chorus ask     --home %s \"The rays of light\"", home)
	d.say("   Begin a consortium of your own: chorus init --help")
	if !keep {
		d.say("   (chorus demo --keep goes on serving at the end; chorus is `go run ./cmd/chorus` here.)")
		return nil
	}
	d.say("\nServing at %s/v1 until Ctrl-C.", base)
	<-ctx.Done()
	return nil
}
