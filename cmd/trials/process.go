package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/node"
	"chorus/node/openai"
)

// A process is a node that runs as a process, or not, and what is known of it from outside.
type process struct {
	chorus string
	home   node.Home
	api    string

	mu      sync.Mutex
	cmd     *exec.Cmd            // guarded by mu; nil while it does not run
	ended   chan struct{}        // guarded by mu; closed when cmd has ended
	lives   int                  // guarded by mu: how often the home was put back from a copy
	revoked map[string]bool      // guarded by mu: offers that it said are revoked
	had     map[string]bool      // guarded by mu: notices that it had
	last    map[string]time.Time // guarded by mu: by offer, the last token with it
	copied  *memory              // guarded by mu: what it knew when its home was copied; nil if there is no copy
}

// A memory is what a home remembers for certain.
type memory struct{ revoked, had map[string]bool }

func newProcess(chorus string, home node.Home, api string) *process {
	return &process{chorus: chorus, home: home, api: api, revoked: make(map[string]bool), had: make(map[string]bool), last: make(map[string]time.Time)}
}

func (p *process) up() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(string(p.home)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.chorus, "up")
	cmd.Env = append(os.Environ(), "CHORUS_HOME="+string(p.home), "GOMAXPROCS=1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	return nil
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	p.cmd = nil
}

func (p *process) control(ctx context.Context) (*node.Client, error) { return node.Dial(ctx, p.home) }

// A noticed is a notice as the trial needs it.
type noticed struct {
	Key      string    `json:"key"`
	Seq      uint64    `json:"seq"`
	Offers   []string  `json:"offers"`
	NotAfter time.Time `json:"not_after"`
}

// notices returns what the node has, by CID.
func (p *process) notices(ctx context.Context) (map[string]noticed, error) {
	c, err := p.control(ctx)
	if err != nil {
		return nil, err
	}
	account, err := c.Account(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]noticed, len(account.Notices))
	for _, n := range account.Notices {
		b, err := json.Marshal(n.Body)
		if err != nil {
			return nil, err
		}
		var l noticed
		if n.Kind != "charter" {
			if err := json.Unmarshal(b, &l); err != nil {
				return nil, fmt.Errorf("%s %s: %w", n.Kind, n.CID, err)
			}
		}
		if n.Kind != "lease" {
			l.Offers = nil
		}
		all[n.CID.String()] = l
	}
	return all, nil
}

// remember takes note of what the node had just before it was killed.
func (p *process) remember(had map[string]noticed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range had {
		p.had[id] = true
	}
}

// lost returns what the node had before it was killed, and has no more.
func (p *process) lost(has map[string]noticed) (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.had {
		if _, ok := has[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// copyHome copies the home of a node that does not run.
func (p *process) copyHome() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return errors.New("a home is copied while its node runs")
	}
	to := string(p.home) + ".copy"
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	p.copied = &memory{maps.Clone(p.revoked), maps.Clone(p.had)}
	return copyFolder(to, string(p.home))
}

// copyFolder copies a home, with keys that nobody else may read.
func copyFolder(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	keys, err := filepath.Glob(filepath.Join(to, "*.key"))
	for _, key := range keys {
		err = cmp.Or(err, os.Chmod(key, 0o600))
	}
	return err
}

func (p *process) hasCopy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.copied != nil
}

// restoreHome puts the copy in the place of the home.
func (p *process) restoreHome() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := os.RemoveAll(string(p.home)); err != nil {
		return err
	}
	p.lives++
	p.revoked, p.had = maps.Clone(p.copied.revoked), maps.Clone(p.copied.had)
	return copyFolder(string(p.home), string(p.home)+".copy")
}

// life counts the restores.
func (p *process) life() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lives
}

func (p *process) saidRevoked() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.revoked)
}

func (p *process) wrote(offers []string) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, offer := range offers {
		p.last[offer] = now
	}
}

func (p *process) lastTokens() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.last)
}

// say asks the node what is revoked, and returns what it should not have said.
func (p *process) say(ctx context.Context) (wrong string) {
	life := p.life()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := p.control(ctx)
	if err != nil {
		return ""
	}
	s, err := c.Status(ctx)
	if err != nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lives != life {
		return ""
	}
	for _, e := range s.Experts {
		id := e.Offer.String()
		switch {
		case e.State == ledger.Revoked && e.InUse && p.revoked[id]:
			return fmt.Sprintf("%s is revoked and in use", id)
		case e.State == ledger.Revoked:
			p.revoked[id] = true
		case p.revoked[id]:
			return fmt.Sprintf("%s was revoked and is %s", id, e.State)
		}
	}
	return ""
}

// complete asks for a few tokens, and calls each with the offers of the experts behind each.
func (p *process) complete(ctx context.Context, each func(offers []string)) (count int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body := `{"model":"chorus","prompt":"the cat","max_tokens":4,"temperature":1,"stream":true}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.api+"/v1/completions", bytes.NewBufferString(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return 0, fmt.Errorf("%s: %s", resp.Status, b)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct {
				FinishReason string `json:"finish_reason"`
			} `json:"choices"`
			Chorus struct {
				Attribution []openai.Share `json:"attribution"`
			} `json:"chorus"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return count, err
		}
		if len(chunk.Chorus.Attribution) == 0 || len(chunk.Choices) != 1 || chunk.Choices[0].FinishReason != "" {
			continue // the last one speaks of the answer as a whole
		}
		count++
		var offers []string
		for _, share := range chunk.Chorus.Attribution {
			if share.Offer != "" {
				offers = append(offers, share.Offer)
			}
		}
		each(offers)
	}
	return count, lines.Err()
}
