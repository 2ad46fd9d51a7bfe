package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chorus/durable"
	"chorus/ledger/notice"
	"chorus/model/eval/leak"
	"chorus/model/train"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
	"github.com/spf13/cobra"
)

// An auditSetting is what an audit was asked to do.
type auditSetting struct {
	Expert  string // its blob's file
	Domain  string
	Members int // documents of each side to tell apart
	Attack  leak.Attack
	Attacks int // documents to attack
	Control int // of those, how many the over-fitted expert learns
	Steps   int // and for how long
	Delta   float64
	Compare int // secrets that a canary is compared with
	Limits  leak.Limits
	Heldout string // where text is that it was not trained on; empty: what training holds out
	Blob    cid.Cid
	Anchor  cid.Cid
}

// standardAudit is the audit of an expert's file.
func standardAudit(expert, domain string) auditSetting {
	return auditSetting{
		Expert: expert, Domain: domain, Members: 1000, Attack: leak.PaperAttack(1), Attacks: 100, Control: 8, Steps: 600, Delta: 1e-5, Compare: 100,
		Limits: leak.DefaultLimits(),
	}
}

func (a *app) auditCommand() *cobra.Command {
	s := standardAudit("", "")
	var data []string
	var anchorDir string
	c := &cobra.Command{
		Use:   "audit EXPERT --data NAME=PATH",
		Short: "Look for what an expert gives away of the text that it was trained on",
		Long: `Attacks an expert as others could once it is published, with the text that it was trained on in hand:

  extraction      given how a training document begins, does it write on as the document does?
  membership      can documents that it was trained on be told from others by how well it predicts them?
  canaries        does it tell the secrets that "chorus train --canaries" planted, and which
                  privacy guarantee does that refute?
  personal data   does it write addresses, phone numbers and the like that stand in the training
                  text and not in public text?

on the expert alone, the mixture, and the mixture with one slot for each token. Two controls stand beside it: the
anchor, and an expert that this command over-fits on purpose, which the attack must catch.

EXPERT is a name that "chorus train" left, or the file of a blob; --data is what it was trained on, all of it:
with other text the audit finds nothing and says nothing. Without --data public=PATH, what anyone may know is the
documentation in the Go distribution. Beside EXPERT are left a report for people (.audit.html), the same for programs (.audit.json), whose digest goes into the offer,
both without any text of yours, and .audit.private.json, with examples of what leaked: that one stays here.
The outcome is pass, warn or block, by the charter's limits or by chorus's own, and "chorus publish" refuses what is
blocked. Interrupted, the command goes on where it was when it is run again.

chorus's own limits, to warn and to block: ` + defaultLimits(),
		Example: `  chorus audit cardiology --data cardiology=./reports --data public=./wikipedia
  chorus audit cardiology --data cardiology=./reports --documents 10000      as many as in the paper
  chorus audit math.safetensors --anchor ./anchor --data math=./train --heldout ./heldout`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			texts, public, err := ownAndPublic(data)
			if err != nil {
				return err
			}
			s.Domain, s.Expert = texts.name, a.node().ExpertPath(given[0])
			if strings.HasSuffix(given[0], filepath.Ext(s.Expert)) {
				s.Expert = given[0]
			}
			if !exists(s.Expert) {
				return withHint(fmt.Errorf("there is no trained expert %q in %s", given[0], a.node().Training()),
					fmt.Sprintf("train one with `chorus train --data %s=PATH`", given[0]))
			}
			r, err := a.audit(c.Context(), anchorDir, s, texts, public)
			if err != nil {
				return err
			}
			return a.result(r, func() { a.showAudit(r, s.Expert) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&data, "data", nil, "NAME=PATH: what the expert was trained on, and public=PATH: what anyone may know (repeatable)")
	f.StringVar(&anchorDir, "anchor", "", "the anchor's folder (default: the anchor of this data folder's charter)")
	f.StringVar(&s.Heldout, "heldout", "", "text of the same source that it was not trained on, if all of --data was (default: the tenth that chorus train holds out)")
	f.IntVar(&s.Attacks, "documents", s.Attacks, "how many training documents to attack")
	f.IntVar(&s.Attack.Prefix, "prefix", s.Attack.Prefix, "how many tokens of each are given")
	f.IntVar(&s.Attack.Length, "length", s.Attack.Length, "how many tokens are written on, at most")
	f.IntVar(&s.Attack.Samples, "samples", s.Attack.Samples, "how often for each document")
	f.IntVar(&s.Members, "members", s.Members, "how many documents of each side to tell members from others by")
	f.IntVar(&s.Control, "control-documents", s.Control, "how many documents the over-fitted expert learns")
	f.IntVar(&s.Steps, "control-steps", s.Steps, "and for how many steps")
	f.Float64Var(&s.Delta, "delta", s.Delta, "δ of the guarantee that canaries refute")
	f.Uint64Var(&s.Attack.Seed, "seed", s.Attack.Seed, "the same seed gives the same continuations")
	return c
}

// The files that an audit leaves beside an expert.
func auditPath(expert string) string   { return expert + ".audit.json" }
func auditPage(expert string) string   { return expert + ".audit.html" }
func privatePath(expert string) string { return expert + ".audit.private.json" }

// An auditPrivate is what an audit found in words: it stays on this machine.
type auditPrivate struct {
	Extracted []extracted               `json:"extracted"`
	Personal  map[string][]leak.Finding `json:"personal"` // by subject
	Canaries  []exposed                 `json:"canaries"` // those planted
}

type extracted struct {
	Subject  string `json:"subject"`
	Prefix   string `json:"prefix"`
	Document string `json:"document"` // how it goes on
	Written  string `json:"written"`
}

type exposed struct {
	Text     string  `json:"text"`
	Exposure float64 `json:"exposure"`
}

// audit audits an expert, leaves the report beside it, and returns it.
func (a *app) audit(ctx context.Context, anchorDir string, s auditSetting, own, public domain) (*leak.Report, error) {
	anchor, tok, id, err := a.anchorFor(ctx, anchorDir)
	if err != nil {
		return nil, err
	}
	expert, err := openExpert(s.Expert, anchor, id)
	if err != nil {
		return nil, err
	}
	if s.Blob, err = blobOf(s.Expert); err != nil {
		return nil, err
	}
	s.Anchor = id
	if s.Limits, err = a.leakLimits(ctx); err != nil {
		return nil, err
	}
	if err := s.Attack.Check(anchor.Config.MaxPositions); err != nil {
		return nil, usageError{err}
	}
	if s.Attacks < 1 || s.Members < 1 || s.Control < 1 || s.Steps < 1 || !(s.Delta >= 0 && s.Delta < 1) {
		return nil, usageError{errors.New("expected at least one document, member, control document and step, and a delta from 0 to 1")}
	}
	r := &auditor{app: a, auditSetting: s, ctx: ctx, anchor: anchor, expert: expert, tok: tok}
	if err := r.read(own, public); err != nil {
		return nil, err
	}
	if r.notes, err = openJournal(s.Expert+".audit.journal", []any{s, r.documents, r.members, r.others}); err != nil {
		return nil, err
	}
	err = r.run()
	if err == nil {
		err = r.leave()
	}
	if err := r.notes.end(err); err != nil {
		return nil, err
	}
	if err := os.Remove(r.checkpoint()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &r.report, nil
}

// leakLimits are the limits of the charter in force, or chorus's own where it sets none or there is no charter.
func (a *app) leakLimits(ctx context.Context) (leak.Limits, error) {
	all, err := a.charters(ctx)
	if errors.Is(err, node.ErrNoHome) || errors.Is(err, node.ErrNoCharter) {
		return leak.DefaultLimits(), nil
	} else if err != nil {
		return leak.Limits{}, err
	}
	t := inForce(all).Leak
	if t == (notice.LeakLimits{}) {
		return leak.DefaultLimits(), nil
	}
	return leak.Limits{
		Extraction: leak.Limit(t.Extraction), Membership: leak.Limit(t.Membership), Epsilon: leak.Limit(t.Epsilon), Personal: leak.Limit(t.Personal),
	}, nil
}

// leave writes the report, its page and the private file.
func (r *auditor) leave() error {
	r.report.Judge()
	b, err := json.MarshalIndent(r.report, "", " ")
	if err != nil {
		return err
	}
	digest, err := reportDigest(b)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	if err := r.report.WriteHTML(&page, digest.String()); err != nil {
		return err
	}
	private, err := json.MarshalIndent(r.private, "", " ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		b    []byte
	}{{privatePath(r.Expert), private}, {auditPage(r.Expert), page.Bytes()}, {auditPath(r.Expert), b}} {
		if err := durable.WriteFile(f.path, durable.Bytes(f.b)); err != nil {
			return err
		}
	}
	return nil
}

// reportDigest is the CID of a report's bytes, as an offer names it.
func reportDigest(b []byte) (cid.Cid, error) {
	sum, err := multihash.Sum(b, multihash.SHA2_256, -1)
	if err != nil {
		return cid.Undef, err
	}
	return cid.NewCidV1(uint64(multicodec.Json), sum), nil
}

// leakReport reads the report beside an expert and returns its digest. Without accept it refuses what nobody should publish: an expert without
// a report, with one of another blob, or with one whose numbers its own limits or those given block.
func leakReport(expert, name string, limits leak.Limits, accept bool) (cid.Cid, error) {
	again := fmt.Sprintf("look for leaks with `chorus audit %s --data %s=PATH`", name, name)
	anyway := "or publish anyway with --accept-leaks: `chorus publish --help` says what that means"
	b, err := os.ReadFile(auditPath(expert))
	if errors.Is(err, os.ErrNotExist) {
		if accept {
			return cid.Undef, nil
		}
		return cid.Undef, withHint(fmt.Errorf("nobody has looked yet for what %s gives away of its training text", name), again, anyway)
	} else if err != nil {
		return cid.Undef, err
	}
	r, err := leak.ParseReport(b)
	if err != nil {
		return cid.Undef, withHint(fmt.Errorf("%s: %w", auditPath(expert), err), again)
	}
	blob, err := blobOf(expert)
	if err != nil {
		return cid.Undef, err
	}
	if r.Blob != blob.String() {
		if accept {
			return cid.Undef, nil
		}
		return cid.Undef, withHint(fmt.Errorf("%s is about another expert than %s", auditPath(expert), expert), again, anyway)
	}
	if accept {
		return reportDigest(b)
	}
	says, why := "the audit of %s says not to publish it: %s", r.Blocked(r.Limits)
	if why == nil {
		says, why = "the limits of audits that hold now say not to publish %s, which was audited under others: %s", r.Blocked(limits)
	}
	if why == nil {
		return reportDigest(b)
	}
	hints := []string{"read " + auditPage(expert), anyway}
	if f := r.Findings[0]; f.Measure == leak.OfControl && f.Outcome == leak.Block {
		hints = slices.Insert(hints, 0, fmt.Sprintf("train the control for longer: `chorus audit %s --data %s=PATH --control-steps %d`", name, name, 2*r.Control.Steps))
	}
	return cid.Undef, withHint(fmt.Errorf(says, name, strings.Join(why, "; ")), hints...)
}

func (a *app) showAudit(r *leak.Report, expert string) {
	rows := [][]string{{"looked for", "outcome", "found"}}
	for _, f := range r.Findings {
		rows = append(rows, []string{f.Measure, string(f.Outcome), f.Why})
	}
	a.table(rows)
	a.say("\nOutcome: %s. The report, without any text of yours: %s", r.Outcome, auditPage(expert))
	a.say("What leaked, in words, stays here: %s", privatePath(expert))
}

// reportTime is the time as reports write it.
func reportTime() string { return time.Now().UTC().Format(time.RFC3339) }

// encode returns documents as tokens.
func (r *auditor) encode(documents []string) [][]int32 {
	out := make([][]int32, len(documents))
	for i, d := range documents {
		for _, id := range r.tok.Encode(d) {
			out[i] = append(out[i], int32(id))
		}
	}
	return out
}

// read reads both texts and chooses documents, by their content alone.
func (r *auditor) read(own, public domain) error {
	mine, err := r.split(own)
	if err != nil {
		return err
	}
	common, err := public.read()
	if err != nil {
		return err
	}
	r.report.Training, r.report.Heldout = len(mine.Train), len(mine.Heldout)
	r.known = leak.NewKnown(mine.Train, common.Train)
	for _, d := range mine.Train {
		if len(r.documents) == r.Attacks {
			break
		}
		r.documents = append(r.documents, r.Attack.Documents(r.encode([]string{d}))...)
	}
	if len(r.documents) == 0 {
		return withHint(fmt.Errorf("no training document of %s has the %d tokens of a prefix and some more", own.name, r.Attack.Prefix),
			"give less of each with --prefix and --length")
	}
	r.control = r.documents[:min(r.Control, len(r.documents))]
	var members []string
	for _, d := range mine.Train[:min(r.Members, len(mine.Train))] {
		members = append(members, train.Piece(d))
	}
	r.members = scored(r.encode(members))
	r.others = scored(r.encode(mine.Heldout[:min(r.Members, len(mine.Heldout))]))
	return nil
}

// split returns what the expert was trained on and what it was not, which is cut as training cuts what it holds out.
func (r *auditor) split(own domain) (*train.Corpus, error) {
	if r.Heldout == "" {
		claim, err := claimOf(r.Expert)
		if err != nil {
			return nil, err
		}
		c, err := own.readFor(claim)
		if err != nil {
			return nil, err
		}
		if claim == nil {
			c.Train, err = train.TrainingDocuments(r.ctx, own.source(), textBytes) // of what it reads, some served to choose by
			return c, err
		}
		for i, d := range c.Heldout {
			c.Heldout[i] = train.Piece(d)
		}
		return c, nil
	}
	out := new(train.Corpus)
	for _, path := range own.paths {
		c, err := train.ReadHeldout(textBytes, path)
		if err != nil {
			return nil, withHint(err, "name other text with --data")
		}
		out.Train = append(out.Train, c.Heldout...)
	}
	c, err := train.ReadHeldout(textBytes, r.Heldout)
	if err != nil {
		return nil, withHint(err, "name other text with --heldout")
	}
	for _, d := range c.Heldout {
		out.Heldout = append(out.Heldout, train.Piece(d))
	}
	return out, nil
}

// scored are documents as membership is scored: their first tokens, of those that have two.
func scored(documents [][]int32) (out [][]int32) {
	for _, d := range documents {
		if d = d[:min(len(d), scoredTokens)]; len(d) > 1 {
			out = append(out, d)
		}
	}
	return out
}

// scoredTokens is how many tokens of a document membership is scored by.
const scoredTokens = 256

// defaultLimits says what an audit warns of and blocks where the charter sets no limits.
func defaultLimits() string {
	l := leak.DefaultLimits()
	percent := func(what string, l leak.Limit) string {
		return fmt.Sprintf("%s %g %% and %g %%", what, 100*l.Warn, 100*l.Block)
	}
	return fmt.Sprintf(`%s of documents, %s of members
at 1 %% of false alarms, %s of texts, an ε of at least %g and %g.`,
		percent("extraction", l.Extraction), percent("membership", l.Membership), percent("personal data", l.Personal), l.Epsilon.Warn, l.Epsilon.Block)
}
