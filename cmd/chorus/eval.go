package main

import (
	"context"
	"fmt"

	"chorus/model"
	"chorus/model/eval"
	"chorus/node"

	"github.com/spf13/cobra"
)

// A namedExpert is an expert and what people call it.
type namedExpert struct {
	name   string
	expert *model.Expert
}

// A namedText is held-out text of one domain.
type namedText struct {
	name string
	encoded
}

// bitsRow is one model's held-out bits per byte, by domain.
type bitsRow struct {
	Model  string             `json:"model"`
	Values map[string]float64 `json:"values"`
	Mean   float64            `json:"mean"` // over all domains but the public one
}

// compare measures, on each text, the anchor alone, each expert alone, the average of their weights,
// and mixture.
func (a *app) compare(ctx context.Context, anchor *model.Anchor, experts []namedExpert, mixture *model.Mixture, texts []namedText) ([]bitsRow, error) {
	type named struct {
		name string
		m    *model.Mixture
	}
	models := []named{{"anchor alone", model.NewMixture(anchor)}}
	var all []*model.Expert
	for _, e := range experts {
		models = append(models, named{e.name + " expert alone", eval.Alone(anchor, e.expert)})
		all = append(all, e.expert)
	}
	models = append(models, named{"average of weights", eval.Average(anchor, all...)}, named{"the mixture", mixture})

	t := a.task("evaluating", int64(len(models)*len(texts)))
	defer t.end()
	var rows []bitsRow
	for i, m := range models {
		row := bitsRow{Model: m.name, Values: make(map[string]float64)}
		counted := 0
		for j, text := range texts {
			bits, err := text.bitsPerByte(ctx, m.m)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", text.name, err)
			}
			row.Values[text.name] = bits
			if text.name != publicDomain {
				row.Mean += bits
				counted++
			}
			t.set(int64(i*len(texts)+j+1), "%s", m.name)
		}
		row.Mean /= float64(max(1, counted))
		rows = append(rows, row)
	}
	return rows, nil
}

// showBits prints the table of [app.compare].
func (a *app) showBits(rows []bitsRow, texts []namedText) {
	head := []string{""}
	for _, t := range texts {
		head = append(head, t.name)
	}
	out := [][]string{append(head, "mean of members'")}
	for _, r := range rows {
		line := []string{r.Model}
		for _, t := range texts {
			line = append(line, fmt.Sprintf("%.3f", r.Values[t.name]))
		}
		out = append(out, append(line, fmt.Sprintf("%.3f", r.Mean)))
	}
	a.table(out)
}

// open opens experts, and returns the mixture of them.
func open(held []node.Expert, anchor *model.Anchor) (experts []namedExpert, mixture *model.Mixture, err error) {
	var all []*model.Expert
	for _, e := range held {
		expert, err := model.LoadExpert(e.Path, anchor)
		if err != nil {
			return nil, nil, err
		}
		experts, all = append(experts, namedExpert{e.Domain, expert}), append(all, expert)
	}
	return experts, model.NewMixture(anchor, all...), nil
}

func (a *app) evalCommand() *cobra.Command {
	var data []string
	c := &cobra.Command{
		Use:   "eval",
		Short: "Measure the mixture on text: bits per byte, beside the anchor and each expert",
		Long: `Measures how many bits per byte the anchor, each expert in use, the average of their weights and the
mixture need for held-out text. Without --data the text is that of the demo. The node must run: it knows
which experts may be used, and ends the command when one of them may not any more.`,
		Example: `  chorus eval --data cardiology=./reports`,
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			domains, err := parseData(data)
			if err != nil {
				return err
			}
			if len(domains) == 0 {
				public, members, err := goDomains()
				if err != nil {
					return err
				}
				domains = append([]domain{public}, members...)
			}
			experts, err := a.inUse(c.Context())
			if err != nil {
				return err
			}
			anchor, tok, err := a.openAnchor()
			if err != nil {
				return err
			}
			var texts []namedText
			for _, d := range domains {
				text, err := encodeCorpus(d, nil, anchor, tok)
				if err != nil {
					return err
				}
				texts = append(texts, namedText{d.name, text})
			}
			var rows []bitsRow
			err = a.whileInUse(c.Context(), experts, func(ctx context.Context) error {
				opened, mixture, err := open(experts, anchor)
				if err != nil {
					return err
				}
				rows, err = a.compare(ctx, anchor, opened, mixture, texts)
				return err
			})
			if err != nil {
				return err
			}
			return a.result(rows, func() { a.showBits(rows, texts) })
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "NAME=PATH: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	return c
}
