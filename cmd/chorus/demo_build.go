package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"chorus/kernels"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/eval/leak"
	"chorus/model/train"
	"chorus/node"
)

func (d *demo) trainAnchor(ctx context.Context) error {
	d.say("   %s trains on %s.", d.steward.name, d.public.words)
	dir := filepath.Join(d.steward.home.Training(), "anchor")
	if exists(dir) {
		d.say("   It was trained before: using %s.", dir)
	}
	if portable() {
		d.say("   There are no fast kernels for this processor yet: all training is %d times shorter.", slowdown)
	}
	if _, err := d.app.trainAnchor(ctx, d.public, paced(train.AnchorRecipe(d.seed)), dir); err != nil {
		return err
	}
	anchor, tok, err := model.LoadAnchor(dir)
	if err != nil {
		return err
	}
	d.steward.domain = d.public
	for _, p := range d.everyone() {
		if p.text, err = encodeCorpus(p.domain, nil, anchor, tok); err != nil {
			return err
		}
	}
	bits, err := d.steward.text.bitsPerByte(ctx, model.NewMixture(anchor))
	if err != nil {
		return err
	}
	d.say("   %s parameters, vocabulary of %d; %.3f bits per byte on held-out public text.", thousands(anchor.Parameters()), anchor.Config.VocabSize, bits)
	return d.found(ctx, dir)
}

// slowdown is by how much the demo trains less where the arithmetic is portable Go, so that it
// ends in minutes there too.
const slowdown = 4

func portable() bool {
	tier, _ := kernels.Tier()
	return tier == "portable"
}

// paced fits a recipe to the machine.
func paced(r train.Recipe) train.Recipe {
	if portable() {
		r.Steps /= slowdown
	}
	return r
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
		if charter, err = founder.foundCharter(ctx, "chorus-demo", id, leaseSeconds, notice.LeakLimits{}, cards); err != nil {
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
		r, err := d.trainExpert(ctx, p.home, p.domain, d.public, paced(train.ExpertRecipe(d.seed)))
		if err != nil {
			return err
		}
		d.say("   Its own held-out text: anchor %.3f, with its expert %.3f bits per byte.", r.Metrics.AnchorBitsPerByte, r.Metrics.ExpertBitsPerByte)
	}
	return nil
}

// audit has each member look for what its expert gives away of its text, briefly, unless it has looked before.
func (d *demo) audit(ctx context.Context) error {
	d.report.Audits = make(map[string]leak.Outcome)
	for _, p := range d.members {
		owner := &app{ui: d.ui, home: string(p.home)}
		path := p.home.ExpertPath(p.domain.name)
		var report *leak.Report
		b, err := os.ReadFile(auditPath(path))
		if err == nil {
			report, err = leak.ParseReport(b)
		} else {
			s := standardAudit(path, p.domain.name)
			s.Attack.Length, s.Attacks, s.Members, s.Control, s.Steps = 64, 20, 200, 3, 200
			report, err = owner.audit(ctx, "", s, p.domain, d.public)
		}
		if err != nil {
			return err
		}
		d.report.Audits[p.domain.name] = report.Outcome
		d.say("   %-18s %s: %s", p.name, report.Outcome, auditPage(path))
		for _, f := range report.Findings {
			if f.Outcome == leak.Block {
				d.say("     %s: %s", f.Measure, f.Why)
			}
		}
	}
	d.say("   So few documents cannot clear an expert: a real audit takes minutes. The demo's text is public, and it publishes whatever was found.")
	return nil
}

func (d *demo) publish(ctx context.Context) error {
	for _, p := range d.members {
		owner := &app{ui: d.ui, home: string(p.home)}
		pub, err := owner.publication(p.domain.name, "Apache-2.0")
		if err != nil {
			return err
		}
		if pub.LeakReport, err = leakReport(pub.Path, p.domain.name, leak.Limits{}, true); err != nil {
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
		e, err := model.LoadExpert(p.home.ExpertPath(p.domain.name), anchor)
		if err != nil {
			return err
		}
		experts = append(experts, namedExpert{p.domain.name, e})
	}
	var texts []namedText
	for _, p := range d.everyone() {
		texts = append(texts, namedText{p.domain.name, p.text})
	}
	err := d.steward.node.Compute(func(m *model.Mixture) (err error) {
		d.report.BitsPerByte, err = d.compare(ctx, anchor, experts, m, texts)
		return err
	})
	if err == nil && !d.json {
		d.say("   Bits per byte of text that no model was trained on (fewer is better):\n")
		d.showBits(d.report.BitsPerByte, texts)
	}
	return err
}
