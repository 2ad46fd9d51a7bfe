package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"chorus/kernels"
	"chorus/model"
)

// What a repetition decodes and reads at once, and how many repetitions a round has.
const (
	decodeTokens  = 128
	prefillTokens = 512
	serveRepeats  = 2
)

// servedFormats are the ways to store a mixture that are served, by the names that the peers' models have. llama.cpp rounds inputs as
// it stores weights: so do mixed and q8_0, while bf16 multiplies in float32, which is no match for reading prompts.
var servedFormats = []struct {
	name, peer string
	bits       float64 // of a weight, scales included
	form       model.Weights
	exact      bool // computes with inputs in float32
}{
	{"bf16", "bf16", 16, model.BFloat16, true},
	{"bf16 mixed", "bf16", 16, model.Mixed, false},
	{"q8_0", "q8_0", 8.5, model.Int8, false},
}

// decode returns what continues a text from its beginning, one token at a time, in seconds per token.
func decode(m *model.Mixture, cores, tokens int) contender {
	return extend(m, cores, 1, tokens)
}

// extend returns what gives a sequence so many tokens, step at a time, in seconds per token.
func extend(m *model.Mixture, cores, step, tokens int) contender {
	ids := make([]int32, tokens)
	for i := range ids {
		ids[i] = int32(i * 1543 % m.Anchor.Config.VocabSize)
	}
	return func() (float64, error) {
		runtime.GOMAXPROCS(cores)
		least := time.Duration(1<<63 - 1)
		for range serveRepeats {
			s, began := m.NewSequence(), time.Now()
			for i := 0; i < tokens; i += step {
				if _, err := s.Extend(ids[i:min(tokens, i+step)]); err != nil {
					return 0, err
				}
			}
			least = min(least, time.Since(began))
		}
		return least.Seconds() / float64(tokens), nil
	}
}

func (r *kernelsRun) measureDecode() error {
	return r.serve("Decoding one sequence", decodeClaim, 1, decodeTokens, "-p", "0", "-n", strconv.Itoa(decodeTokens))
}

func (r *kernelsRun) measurePrefill() error {
	return r.serve("Reading a prompt", prefillClaim, prefillTokens, prefillTokens, "-p", strconv.Itoa(prefillTokens), "-n", "0")
}

// serve compares with llama.cpp how a sequence gets so many tokens, step at a time.
func (r *kernelsRun) serve(name string, claim float64, step, tokens int, test ...string) error {
	fmt.Printf("\n%s of %d tokens, %+v, tokens/s\n", name, tokens, servedShape)
	line("", "ours", "llama.cpp", "ratio (least..most)", "load, disturbed")
	builds := make(map[string]bool)
	for _, f := range servedFormats {
		m, err := servedShape.build(f.form)
		if err != nil {
			return err
		}
		for _, cores := range r.cores() {
			theirs, err := r.llamaBench(f.peer, cores, builds, test...)
			if err != nil {
				return err
			}
			ours := extend(m, cores, step, tokens)
			least := claim
			if f.exact && step > 1 {
				least = 0
			}
			if err := r.duel(fmt.Sprintf("%s, %s on %d", name, f.name, cores), least, theirs, ours, perSecond); err != nil {
				return err
			}
		}
	}
	for b := range builds {
		fmt.Println("  llama.cpp", b)
	}
	return nil
}

func perSecond(seconds float64) float64 { return 1 / seconds }

// llamaBench returns what measures the peers' model of a format, in seconds per token, nil if it is not there.
// The builds that answer are noted.
func (r *kernelsRun) llamaBench(format string, cores int, builds map[string]bool, test ...string) (contender, error) {
	if r.dir == "" {
		return nil, nil
	}
	program, weights := filepath.Join(r.dir, "llama-bench"), filepath.Join(r.dir, "S-"+format+".gguf")
	a, errA := present(program)
	b, errB := present(weights)
	if err := errors.Join(errA, errB); err != nil || !a || !b {
		return nil, err
	}
	args := append([]string{"-m", weights, "-t", strconv.Itoa(cores), "-r", strconv.Itoa(serveRepeats), "-o", "json"}, test...)
	return func() (float64, error) {
		out, err := exec.CommandContext(r.ctx, program, args...).Output()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", program, err)
		}
		var results []struct {
			Commit  string  `json:"build_commit"`
			Number  int     `json:"build_number"`
			Prompt  int     `json:"n_prompt"`
			Answer  int     `json:"n_gen"`
			Samples []int64 `json:"samples_ns"`
		}
		if err := json.Unmarshal(out, &results); err != nil {
			return 0, fmt.Errorf("%s: %w", program, err)
		}
		if len(results) != 1 || len(results[0].Samples) == 0 {
			return 0, fmt.Errorf("%s: %d results, expected one", program, len(results))
		}
		t := results[0]
		builds[fmt.Sprintf("%s (%d)", t.Commit, t.Number)] = true
		return float64(slices.Min(t.Samples)) / 1e9 / float64(t.Prompt+t.Answer), nil
	}, nil
}

// readBytes is how much memory is read, far more than caches hold, and readChunk what a core takes of it at a time.
const (
	readBytes = 512 << 20
	readChunk = 256 << 10
)

// read returns what does nothing but read memory, as often as comes to that many bytes, in seconds per byte.
func read(data []float32, cores int, bytes float64) contender {
	const chunk = readChunk / 4
	passes := max(1, int(bytes/float64(4*len(data))))
	return func() (float64, error) {
		runtime.GOMAXPROCS(cores)
		least := time.Duration(1<<63 - 1)
		for range serveRepeats {
			began := time.Now()
			for range passes {
				var next atomic.Int64
				var threads sync.WaitGroup
				for range cores {
					threads.Go(func() {
						for at := int(next.Add(chunk)) - chunk; at < len(data); at = int(next.Add(chunk)) - chunk {
							part := data[at:][:chunk]
							kernels.Dot(part, part)
						}
					})
				}
				threads.Wait()
			}
			least = min(least, time.Since(began))
		}
		return least.Seconds() / float64(passes*4*len(data)), nil
	}
}

// measureBandwidth compares the bytes of weights that decoding reads in a second with what a pure read of memory does.
func (r *kernelsRun) measureBandwidth() (err error) {
	fmt.Printf("\nWeights that decoding reads, %+v, against a pure read, GB/s\n", servedShape)
	line("", "decoding", "reading", "share (least..most)", "load, disturbed")
	data, free, err := largePages(readBytes / 4)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, free()) }()
	for i := range data {
		data[i] = 1
	}
	for _, f := range servedFormats {
		m, err := servedShape.build(f.form)
		if err != nil {
			return err
		}
		bytes := float64(servedShape.active()) * f.bits / 8
		for _, cores := range r.cores() {
			token := decode(m, cores, decodeTokens)
			ours := func() (float64, error) {
				seconds, err := token()
				return seconds / bytes, err
			}
			err := r.duel(fmt.Sprintf("bandwidth, %s on %d", f.name, cores), bandwidthClaim, read(data, cores, bytes*decodeTokens), ours,
				func(seconds float64) float64 { return 1 / seconds / 1e9 })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// expertCounts are the mixtures of which a token takes two slots each.
var expertCounts = []int{2, 4, 8, 16}

// measureExperts measures whether a token that takes as many slots out of more is as fast.
func (r *kernelsRun) measureExperts() error {
	shape := servedShape
	shape.experts = slices.Max(expertCounts)
	fmt.Printf("\nDecoding with %d slots of E, %d hidden, %d intermediate, %d layers, bf16, tokens/s\n", shape.k, shape.hidden, shape.intermediate, shape.layers)
	line("", "ours", "E = 2", "ratio (least..most)", "load, disturbed")
	whole, err := shape.build(model.BFloat16)
	if err != nil {
		return err
	}
	for _, cores := range r.cores() {
		var sides []contender
		for _, n := range expertCounts {
			side := decode(&model.Mixture{Anchor: whole.Anchor, Slots: whole.Slots[:n], TopK: shape.k}, cores, decodeTokens)
			if _, err := side(); err != nil {
				return err
			}
			sides = append(sides, side)
		}
		times, err := r.compete(sides...)
		if err != nil {
			return err
		}
		disturbance := r.disturbance()
		for i, n := range expertCounts {
			q := over(times[0], times[i])
			if i > 0 {
				name := fmt.Sprintf("2 of %d slots on %d", n, cores)
				line(name, fmt.Sprintf("%.1f", 1/median(times[i])), fmt.Sprintf("%.1f", 1/median(times[0])), q.String(), disturbance)
				r.claim(expertsClaim, q, "decoding with %s", name)
			}
		}
	}
	return nil
}
