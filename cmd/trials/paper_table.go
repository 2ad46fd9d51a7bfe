package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A paperTable is the rows of all seeds. Rows of one name are of one model.
type paperTable struct {
	texts []string     // domains, then mixed
	from  uint64       // the first seed
	seeds [][]paperRow // by seed, from the first on
}

// names are those of rows, in order.
func (t *paperTable) names() (names []string) {
	for _, r := range t.seeds[0] {
		names = append(names, r.Name)
	}
	return names
}

// find returns the rows of one name, one for each seed that has it.
func (t *paperTable) find(name string) (rows []paperRow) {
	for _, seed := range t.seeds {
		for _, r := range seed {
			if r.Name == name {
				rows = append(rows, r)
			}
		}
	}
	return rows
}

// values returns what f gives for each seed's row of a name.
func (t *paperTable) values(name string, f func(paperRow) float64) (v []float64) {
	for _, r := range t.find(name) {
		v = append(v, f(r))
	}
	return v
}

func bitsOn(text string) func(paperRow) float64 {
	return func(r paperRow) float64 { return r.Scores[text].Bits }
}

// meanBits is the mean over some texts.
func meanBits(texts []string) func(paperRow) float64 {
	return func(r paperRow) float64 {
		var sum float64
		for _, t := range texts {
			sum += r.Scores[t].Bits
		}
		return sum / float64(len(texts))
	}
}

// having returns the table of the seeds that have a row.
func (t *paperTable) having(name string) *paperTable {
	some := &paperTable{texts: t.texts, from: t.from}
	for _, seed := range t.seeds {
		if slices.ContainsFunc(seed, func(r paperRow) bool { return r.Name == name }) {
			some.seeds = append(some.seeds, seed)
		}
	}
	return some
}

func (t *paperTable) domains() []string { return t.texts[:len(t.texts)-1] }

// reduction returns by how many bits per byte a row is below the anchor, in the mean over some texts and over the seeds that have it.
func (t *paperTable) reduction(name string, texts []string) float64 {
	var sum float64
	n := 0
	for _, seed := range t.seeds {
		for _, r := range seed {
			if r.Name == name {
				sum += meanBits(texts)(seed[0]) - meanBits(texts)(r)
				n++
			}
		}
	}
	return sum / float64(n)
}

// together is the reduction on the mean of the domains and on the mixed set, each half of it.
func (t *paperTable) together(name string) float64 {
	return (t.reduction(name, t.domains()) + t.reduction(name, t.texts[len(t.texts)-1:])) / 2
}

func deviation(v []float64) float64 {
	var sum float64
	for _, x := range v {
		sum += (x - mean(v)) * (x - mean(v))
	}
	return math.Sqrt(sum / float64(max(1, len(v)-1)))
}

// columns of the table that are about texts, and what each is of a row.
func (t *paperTable) columns() (names []string, of []func(paperRow) float64) {
	for _, text := range t.texts {
		names, of = append(names, text), append(of, bitsOn(text))
	}
	names, of = append(names, "mean of domains"), append(of, meanBits(t.domains()))
	return names, of
}

// markdown writes the table, with means and standard deviations over seeds, and then accuracies.
func (t *paperTable) markdown(w io.Writer) {
	names, of := t.columns()
	fmt.Fprintf(w, "Bits per byte of held-out text, %d seeds.\n\n", len(t.seeds))
	head := func(more ...string) {
		all := append(append([]string{"model"}, names...), more...)
		fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(all, " | "), strings.Repeat("---|", len(all)))
	}
	head("reduction", "mixed reduction", "M parameters", "M active", "TFLOPs", "s")
	for _, name := range t.names() {
		cells := []string{name}
		for _, f := range of {
			cells = append(cells, plusMinus(t.values(name, f), "%.3f"))
		}
		r := t.find(name)[0]
		cells = append(cells, fmt.Sprintf("%.3f", t.reduction(name, t.domains())), fmt.Sprintf("%.3f", t.reduction(name, t.texts[len(t.texts)-1:])),
			fmt.Sprintf("%.2f", float64(r.Parameters)/1e6), fmt.Sprintf("%.2f", float64(r.Active)/1e6),
			fmt.Sprintf("%.1f", r.FLOPs/1e12), fmt.Sprintf("%.0f", mean(t.values(name, func(r paperRow) float64 { return r.Seconds }))))
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintf(w, "\nNext-token accuracy, %%.\n\n")
	head()
	for _, name := range t.names() {
		cells := []string{name}
		var total []float64
		for i, text := range t.texts {
			v := t.values(name, func(r paperRow) float64 { return 100 * r.Scores[text].Accuracy })
			cells = append(cells, plusMinus(v, "%.1f"))
			if i < len(t.domains()) {
				total = append(total, mean(v))
			}
		}
		fmt.Fprintf(w, "| %s | %.1f |\n", strings.Join(cells, " | "), mean(total))
	}
}

func plusMinus(v []float64, format string) string {
	if len(v) < 2 {
		return fmt.Sprintf(format, mean(v))
	}
	return fmt.Sprintf(format+" ± "+format, mean(v), deviation(v))
}

// csv writes every row of every seed, one text a line.
func (t *paperTable) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }
	_ = c.Write([]string{"seed", "model", "text", "bits_per_byte", "accuracy", "parameters", "active_parameters", "training_flops", "training_seconds"})
	for i, seed := range t.seeds {
		for _, r := range seed {
			for _, text := range t.texts {
				s := r.Scores[text]
				_ = c.Write([]string{fmt.Sprint(t.from + uint64(i)), r.Name, text, number(s.Bits), number(s.Accuracy),
					fmt.Sprint(r.Parameters), fmt.Sprint(r.Active), number(r.FLOPs), number(r.Seconds)})
			}
		}
	}
	c.Flush()
	return c.Error()
}
