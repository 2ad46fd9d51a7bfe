package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"chorus/model"
	"chorus/model/train"
	"chorus/node/openai"
)

// promptBytes is about how long a prompt is, and promptChoice among how many it is chosen.
const (
	promptBytes  = 400
	promptChoice = 8
)

// prompt is a passage from the middle of a held-out document of p's domain: of the first few, the one
// that the mixture predicts better than the anchor by the most.
func (d *demo) prompt(ctx context.Context, p *participant) (prompt string, err error) {
	anchor, tok := d.steward.node.Anchor()
	most := math.Inf(-1)
	for _, doc := range p.text.documents[:min(promptChoice, len(p.text.documents))] {
		text := doc[len(doc)/2:]
		text = text[strings.IndexByte(text, '\n')+1:]
		if len(text) > promptBytes {
			text = text[:strings.LastIndexAny(text[:promptBytes], " \n\t")+1]
		}
		passage := encoded{heldout: train.Encode([]string{text}, tok.Encode, anchor.Config.EOS[0], 0)}
		before, err := passage.bitsPerByte(ctx, model.NewMixture(anchor))
		if err != nil {
			continue // too short
		}
		after, err := d.bits(ctx, passage)
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

// bits measures a text on the steward's mixture.
func (d *demo) bits(ctx context.Context, text encoded) (bits float64, err error) {
	err = d.steward.node.Compute(func(m *model.Mixture) (err error) {
		bits, err = text.bitsPerByte(ctx, m)
		return err
	})
	return bits, err
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
		prompt, err := d.prompt(ctx, p)
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
