package simulation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Mutation is a safeguard that is deleted from the source, to see that some world then breaks an invariant.
type Mutation struct {
	Safeguard string
	edits     []edit
	seed      uint64 // of a world that broke without it: where to look first
}

// edit replaces what stands exactly once in a file of the module.
type edit struct{ file, old, new string }

// MutationSeeds is in how many worlds a safeguard that is not there must be missed.
const MutationSeeds = 200

// Mutations returns every safeguard that can be deleted by itself; where two do the same, both go.
func Mutations() []Mutation {
	const consent, decide, signing, take = "ledger/consent.go", "node/steward/decide.go", "node/steward/signing.go", "p2p/take.go"
	one := func(safeguard, file, old, new string) Mutation {
		return Mutation{Safeguard: safeguard, edits: []edit{{file, old, new}}}
	}
	all := []Mutation{
		one("a lease's own feed is complete", consent, ` || f.complete < l.Seq {`, ` {`),
		one("the heads that a lease names are here", consent, `if other == nil || other.complete < h.Seq || !other.has(h.Seq, digestOf(h.CID)) {`, `if _ = other; false {`),
		one("a lease names the heads of its member's other feeds", signing, `if h.Key != key {`, `if false {`),
		one("a lease has begun", consent, `case now.Add(clockTolerance).Before(p.lease.Time):`, `case false:`),
		one("a lease is no longer than the ceiling", consent, `if l.NotAfter.Sub(l.Time) > time.Duration(c.charter.LeaseCeilingSeconds)*time.Second || `, `if `),
		{Safeguard: "a lease ends, at the steward's look and between two tokens", edits: []edit{
			{decide, `		p.Again = earlier(p.Again, until)`, ``},
			{decide, `return !now.Before(until) ||`, `return false &&`},
		}},
		one("a revocation is terminal", consent, `	case r != nil:
			o.State`, `	case r != nil && (f.lease == nil || f.lease.Header().Seq < r.Header().Seq):
			o.State`),
		one("a delegate's revocation counts", "ledger/authority.go", `return d.Revoke && body.Time.Before(d.NotAfter) &&`, `return false &&`),
		one("a vote needs a quorum", "ledger/authority.go", `return n >= c.Quorum`, `return n > 0`),
		one("only stewards vote", "ledger/authority.go", `			if c.Steward(name) {
				n++`, `			if _ = name; true {
				n++`),
		one("the stewards who vote had the member on their charter", "ledger/authority.go", `if _, on := c.Named(member); !on {
			return false`, `if _, on := c.Named(member); !on {
			_ = on`),
		one("a charter needs a quorum of the stewards before", "ledger/notice/charter.go", `if err := n.signedByQuorum(before); err != nil {`, `if err := error(nil); err != nil {`),
		one("a charter needs a quorum of its own stewards", "ledger/notice/charter.go", `return n.signedByQuorum(c)
}

// signedByQuorum`, `return nil
}

// signedByQuorum`),
		one("who is removed has no seat", "ledger/seats.go", `		delete(c.seats, name)
`, ``),
		one("a fork of the charter freezes it", "ledger/charters.go", `	for len(c.next[id]) == 1 {`, `	for len(c.next[id]) > 0 {`),
		one("a rotation replaces a node's key", "ledger/seats.go", `s.node = c.rotated(m, m.Node, notice.RotateNode)`, `s.node = m.Node`),
		one("only members connect", "p2p/gate.go", `	_, _, ok := notices.Seat(key)
	return ok
}`, `	return true
}`),
		one("only members' nodes gossip", "p2p/gossip.go", `if !ok || !node {`, `if _, _ = node, ok; false {`),
		one("only members are spoken with", "p2p/engine.go", `if _, _, ok := e.notices.Seat(from); !ok || `, `if `),
		one("a notice's signature is verified", "ledger/notice/notice.go", `		err = verify(n.Kind, signed)
	}
	if err != nil {
		return nil, err
	}
	recent`, `		_ = signed
	}
	if err != nil {
		return nil, err
	}
	recent`),
		one("a notice's author may sign it", "ledger/add.go", `if !c.allowed(n) {`, `if false {`),
		one("a member offers so much a day", consent, `case count > c.charter.OffersPerDay:`, `case false:`),
		one("an expert is no larger than the charter allows", "node/steward/admission.go", `case o.Size > charter.MaxBlobBytes:`, `case false:`),
		one("an expert has the charter's anchor", "node/steward/admission.go", `case !o.Anchor.Equals(charter.Anchor):`, `case false:`),
		{Safeguard: "a rotation withdraws what the replaced key offered", edits: []edit{
			{"ledger/authority.go", `for _, n := range a.replaced[k] {`, `for _, n := range a.replaced[k][:0] {`},
			{consent, `here := s != nil && s.publishing == p &&`, `here := s != nil &&`},
		}},
		one("a member has left that is not on every branch of the charter", consent, `		return !on
`, `		return false && !on
`),
		one("a fork suspends", consent, `case here && s.forked:`, `case false:`),
		one("the clock's high-water mark", "ledger/clock.go", `if now.Before(high.Add(-clockTolerance)) {`, `if false {`),
		one("nothing is used before anybody was heard", decide, `case !v.Reconciled:`, `case false:`),
		one("nothing is signed before all were heard", decide, `if trusted && v.CaughtUp {`, `if trusted {`),
		{Safeguard: "signing goes on after the highest notice, and never beyond a gap", edits: []edit{
			{signing, `if gap.Key == public {`, `if false {`},
			{"ledger/add.go", `h.Seq, h.Prev = f.top+1, f.at(f.top)[0].id.cid()`, `if h.Seq = f.complete + 1; f.complete > 0 {
				h.Prev = f.at(f.complete)[0].id.cid()
			}`},
		}},
		one("an expert is dropped on notice", "node/steward/steward.go", `case <-changed:`, `case <-func() chan struct{} { _ = changed; return nil }():`),
		one("a revoked expert's blob is deleted whatever the clock says", decide, `		case st.State == ledger.Revoked:
			return string(st.State), true
`, ``),
		one("a notice is durable before it is acknowledged", "ledger/add.go", `	err := l.db.Update(func(tx *bbolt.Tx) error {
		links, bodies`, `	err := func(f func(*bbolt.Tx) error) error {
		time.AfterFunc(300*time.Millisecond, func() { l.db.Update(f) })
		return nil
	}(func(tx *bbolt.Tx) error {
		links, bodies`),
		{Safeguard: "the proof of a fork is passed on", edits: []edit{
			{"ledger/frontier.go", `if f.fork > 0 {`, `if at.Seq = min(at.Seq, uint64(len(f.chain))); false {`},
			{take, `	case their.Seq == own.Seq && their.CID != own.CID:
		return 0, true, nil
`, ``},
		}},
		one("what lies beyond a gap is passed on", take, `return their.Seq, their.Rest != own.Rest && their.Rest != [32]byte{}, nil`, `return their.Seq, false, nil`),
	}
	// The first worlds that broke, where it was another than the first: where to look first.
	broke := map[string]uint64{
		"a lease's own feed is complete":                                   50,
		"the heads that a lease names are here":                            5,
		"a lease names the heads of its member's other feeds":              5,
		"a lease is no longer than the ceiling":                            104,
		"a lease ends, at the steward's look and between two tokens":       2,
		"a delegate's revocation counts":                                   6,
		"only stewards vote":                                               27,
		"the stewards who vote had the member on their charter":            115,
		"a charter needs a quorum of the stewards before":                  12,
		"a charter needs a quorum of its own stewards":                     11,
		"who is removed has no seat":                                       2,
		"a fork of the charter freezes it":                                 2,
		"a rotation replaces a node's key":                                 11,
		"only members connect":                                             11,
		"only members' nodes gossip":                                       11,
		"only members are spoken with":                                     11,
		"a notice's signature is verified":                                 11,
		"a notice's author may sign it":                                    11,
		"a member offers so much a day":                                    12,
		"an expert is no larger than the charter allows":                   4,
		"an expert has the charter's anchor":                               4,
		"a rotation withdraws what the replaced key offered":               2,
		"a member has left that is not on every branch of the charter":     2,
		"the clock's high-water mark":                                      2,
		"nothing is signed before all were heard":                          94,
		"signing goes on after the highest notice, and never beyond a gap": 7,
		"what lies beyond a gap is passed on":                              2,
	}
	for i := range all {
		all[i].seed = broke[all[i].Safeguard]
	}
	return all
}

// apply returns the mutated files of the module in root: the new text by the path.
func (m Mutation) apply(root string) (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range m.edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		if files[path] == "" {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			files[path] = string(b)
		}
		if n := strings.Count(files[path], e.old); n != 1 {
			return nil, fmt.Errorf("%s: %q stands there %d times, expected once: the mutation %q needs to follow the code", e.file, e.old, n, m.Safeguard)
		}
		files[path] = strings.Replace(files[path], e.old, e.new, 1)
	}
	return files, nil
}

// Build builds the test binary of this package into dir, of the module's source but for a mutation, and returns its path.
func (m Mutation) Build(ctx context.Context, dir string) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	files, err := m.apply(filepath.Dir(strings.TrimSpace(string(mod))))
	if err != nil {
		return "", err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for path, text := range files {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = file
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "simulation.exe")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", binary, "chorus/node/simulation").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building without %q: %w\n%s", m.Safeguard, err, out)
	}
	return binary, nil
}

// RunSeeds runs the worlds of some seeds in a process of their own, of this package's test binary: all of them, or until
// one breaks. The error says which seeds failed and how.
func RunSeeds(ctx context.Context, binary string, first, last uint64, all bool) error {
	c := exec.CommandContext(ctx, binary, "-test.run=^TestWorlds$", "-test.timeout=0", fmt.Sprintf("-test.failfast=%t", !all))
	c.Env = append(os.Environ(), fmt.Sprintf("CHORUS_SEEDS=%d-%d", first, last))
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && !strings.Contains(string(out), fmt.Sprintf("seed %d holds ", last)) {
		err = errors.New("it did not come to the last seed")
	}
	if err == nil {
		return nil
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool {
		return strings.HasPrefix(l, "seed ") && strings.Contains(l, " holds ")
	})
	return fmt.Errorf("seeds %d to %d: %w\n%s", first, last, err, strings.Join(lines, "\n"))
}

// A Breach is an invariant that does not hold in the world of a seed.
type Breach struct {
	Seed uint64
	What string // and when, and to whom
}

var breaches = regexp.MustCompile(`seed (\d+): \d+ breaches\n\s*(.*)`)

// FirstBreach returns the first breach that an error of RunSeeds tells of, and nil if the process failed in another way.
func FirstBreach(err error) *Breach {
	m := breaches.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	seed, _ := strconv.ParseUint(m[1], 10, 64)
	return &Breach{seed, m[2]}
}

// atOnce is how many worlds one process runs: each begins anew, so that memory is given back.
const atOnce = 10

// Each runs the worlds from first to last in as many processes as there are processors, each of which keeps one busy. It
// calls done for each process that has ended, one at a time, until that returns false.
func Each(ctx context.Context, binary string, first, last uint64, all bool, done func(first, last uint64, err error) (more bool)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	next := make(chan uint64)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for from := range next {
				to := min(from+atOnce-1, last)
				err := RunSeeds(ctx, binary, from, to, all)
				mu.Lock()
				if ctx.Err() == nil && !done(from, to, err) {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for from := first; from <= last && ctx.Err() == nil; from += atOnce {
		select {
		case next <- from:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
}

// Break looks for a world without the safeguard in which an invariant does not hold, among those of the seeds up to last,
// and returns nil if there is none. It builds into dir. A process that fails in another way is an error: it proves
// nothing.
func (m Mutation) Break(ctx context.Context, dir string, last uint64) (b *Breach, err error) {
	binary, err := m.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	judge := func(_, _ uint64, failed error) (more bool) {
		if failed == nil {
			return true
		}
		if b = FirstBreach(failed); b == nil {
			err = failed
		}
		return false
	}
	if m.seed > 0 && !judge(m.seed, m.seed, RunSeeds(ctx, binary, m.seed, m.seed, false)) {
		return b, cmp.Or(err, ctx.Err())
	}
	Each(ctx, binary, 1, last, false, judge)
	if b == nil && err == nil {
		err = ctx.Err()
	}
	return b, err
}
