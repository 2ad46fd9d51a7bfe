package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/node"
	"chorus/node/openai"

	"github.com/ipfs/go-cid"
)

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

// A stream is a long answer that a node writes while the revocation happens.
type stream struct {
	with, without int             // tokens, with and without the expert
	before, after strings.Builder // their text
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
	if rep.BitsBefore, err = d.bits(ctx, leaver.text); err != nil {
		return err
	}
	prompt, err := d.prompt(ctx, leaver)
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
					func(text string, shares []openai.Share) {
						if slices.ContainsFunc(shares, func(x openai.Share) bool { return x.Offer == leaver.offer.String() }) {
							s.with++
							s.before.WriteString(text)
						} else {
							s.without++
							s.after.WriteString(text)
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
	if rep.BitsAfter, err = d.bits(ctx, leaver.text); err != nil {
		return err
	}
	anchor, _ := d.steward.node.Anchor()
	if rep.BitsAnchor, err = leaver.text.bitsPerByte(ctx, model.NewMixture(anchor)); err != nil {
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
	d.showRevocation(streams[0].before.String(), streams[0].after.String())
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

// showRevocation prints what happened, with the steward's answer before and after the swap.
func (d *demo) showRevocation(before, after string) {
	if d.json {
		return
	}
	const excerpt = 100 // characters
	b, a := []rune(before), []rune(after)
	b, a = b[max(0, len(b)-excerpt):], a[:min(len(a), excerpt)]
	d.say("   The answer on %s around that moment, ✂ where %s left it:", d.steward.name, d.report.Revocation.Domain)
	d.say("     | %s", strings.ReplaceAll("…"+string(b)+" ✂ "+string(a)+"…", "\n", "\n     | "))
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
