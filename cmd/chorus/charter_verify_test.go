package main

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorus/ledger/notice"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A board signs charters of two stewards, east and west.
type board struct {
	*testing.T
	dir  string
	keys map[string]ed25519.PrivateKey
}

func newBoard(t *testing.T) *board {
	b := &board{T: t, dir: t.TempDir(), keys: make(map[string]ed25519.PrivateKey)}
	for i, name := range []string{"east", "west", "east's node", "west's node"} {
		b.keys[name] = ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+i)), ed25519.SeedSize)))
	}
	return b
}

// draw returns the version that follows prev, or the first, and the file that it is written to.
func (b *board) draw(prev *notice.Notice, offers int, signers ...string) (*notice.Notice, string) {
	b.Helper()
	hash, err := multihash.Sum([]byte("anchor"), multihash.SHA2_256, -1)
	if err != nil {
		b.Fatal(err)
	}
	c := &notice.Charter{
		Name: "hearts", Version: 1, Anchor: cid.NewCidV1(cid.DagProtobuf, hash), Stewards: []string{"east", "west"}, Quorum: 2,
		LeaseSeconds: 60, LeaseCeilingSeconds: 60, MaxBlobBytes: 1, OffersPerDay: offers,
	}
	for _, name := range c.Stewards {
		c.Members = append(c.Members, notice.Member{Name: name, Publishing: notice.PublicKeyOf(b.keys[name]), Node: notice.PublicKeyOf(b.keys[name+"'s node"])})
	}
	if prev != nil {
		c.Version, c.Prev = prev.Body.(*notice.Charter).Version+1, prev.CID
	}
	var keys []ed25519.PrivateKey
	for _, name := range signers {
		keys = append(keys, b.keys[name])
	}
	n, err := notice.Sign(c, keys...)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.dir, n.CID.String()+"-"+strings.Join(signers, "-"))
	if err := os.WriteFile(path, n.Envelope, 0o600); err != nil {
		b.Fatal(err)
	}
	return n, path
}

func TestVersionsAreVerifiedByTheOneThatEachFollows(t *testing.T) {
	b := newBoard(t)
	one, first := b.draw(nil, 1, "east", "west")
	two, second := b.draw(one, 2, "east", "west")
	beside, other := b.draw(one, 3, "east", "west")
	three, third := b.draw(two, 4, "east")
	_, same := b.draw(two, 4, "west")
	_, fourth := b.draw(three, 5, "east", "west")
	_, alien := b.draw(nil, 6, "east", "west")
	for name, tt := range map[string]struct {
		files     []string
		versions  int
		proposals int
		err       string
	}{
		"in any order":                       {[]string{second, first}, 2, 0, ""},
		"with a proposal":                    {[]string{first, second, third}, 3, 1, ""},
		"with signatures from two machines":  {[]string{first, second, third, same, fourth}, 4, 0, ""},
		"what follows a proposal":            {[]string{first, second, third, fourth}, 0, 0, "which lacks signatures"},
		"without one between":                {[]string{first, third, same}, 0, 0, "follows " + two.CID.String() + ", which is not among the files"},
		"of two charters":                    {[]string{first, alien}, 0, 0, "are the first versions of two charters"},
		"a fork, with what follows a branch": {[]string{first, second, other, third, same}, 4, 0, "both follow version 1: the charter is forked"},
	} {
		files, err := readChain(tt.files)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		all, forked, err := verify(files)
		proposals := 0
		for _, v := range all {
			if v.Proposal {
				proposals++
			}
		}
		if len(all) != tt.versions || proposals != tt.proposals {
			t.Errorf("%s: %d versions, %d of them proposals, expected %d and %d", name, len(all), proposals, tt.versions, tt.proposals)
		}
		if got := errors.Join(err, forked); (got != nil) != (tt.err != "") || got != nil && !strings.Contains(got.Error(), tt.err) {
			t.Errorf("%s: %v, expected %q", name, got, tt.err)
		}
		if forked != nil && (!errors.Is(forked, node.ErrForked) || !strings.Contains(forked.Error(), two.CID.String()) || !strings.Contains(forked.Error(), beside.CID.String())) {
			t.Errorf("%s: %v, expected both branches", name, forked)
		}
	}
}
