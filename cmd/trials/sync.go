package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func syncTrial() *cobra.Command {
	var members, leases int
	c := &cobra.Command{
		Use:   "sync",
		Short: "Bring an empty node up to date, and count what two idle ones exchange",
		Long: `Signs ten years of leases of a hundred members, one every eight hours, has an empty node fetch them from another over
loopback, and then counts the bytes that the two exchange in a minute without news. It takes five minutes, most of them for signing, and 5 GB of
disk.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runSync(c.Context(), members, leases) },
	}
	c.Flags().IntVar(&members, "members", 100, "of the consortium")
	c.Flags().IntVar(&leases, "leases", 11_000, "of each member")
	return c
}

const (
	syncWithin = time.Minute
	idleBytes  = 2000 // of two nodes together, in a minute
)

// syncNotices is a ledger as a host uses it.
type syncNotices struct{ *ledger.Ledger }

func (l syncNotices) Seat(key notice.PublicKey) (member string, node, ok bool) {
	member, role, ok := l.Ledger.Seat(key)
	return member, role == ledger.RoleNode, ok
}

func (l syncNotices) Detached() []*notice.Notice { return l.Ledger.Detached() }

// syncKey returns a key of a member.
func syncKey(member int, use string) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "%d %s", member, use))
	return ed25519.NewKeyFromSeed(seed[:])
}

func runSync(ctx context.Context, members, leases int) (err error) {
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	charter, err := syncCharter(members)
	if err != nil {
		return err
	}
	var ends []func() error
	defer func() {
		for _, end := range slices.Backward(ends) {
			err = errors.Join(err, end())
		}
	}()
	start := func(member int, peers ...string) (*ledger.Ledger, *p2p.Host, error) {
		l, err := ledger.Open(filepath.Join(dir, fmt.Sprint(member)), charter)
		if err != nil {
			return nil, nil, err
		}
		ends = append(ends, l.Close)
		if member == 0 {
			if err := syncHistory(ctx, l, members, leases); err != nil {
				return nil, nil, err
			}
		}
		h, err := p2p.New(ctx, p2p.Config{
			Key: syncKey(member, "node"), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: peers,
			Charter: charter.CID, Notices: syncNotices{l}, Log: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			ends = append(ends, h.Close)
		}
		return l, h, err
	}
	began := time.Now()
	_, full, err := start(0)
	if err != nil {
		return err
	}
	fmt.Printf("%d leases signed and stored in %.0f s\n", members*leases, time.Since(began).Seconds())
	began = time.Now()
	l, empty, err := start(1, full.Addrs()...)
	if err != nil {
		return err
	}
	select {
	case <-empty.Reconciled():
	case <-ctx.Done():
		return ctx.Err()
	}
	took := time.Since(began)
	held := uint64(0)
	for _, f := range l.Frontiers() {
		held += f.Seq
	}
	received, _ := empty.Traffic()
	t := &tally{}
	t.check(held == uint64(members*leases), "the empty node holds %d of %d leases", held, members*leases)
	t.check(took < syncWithin, "after %.1f s, %.0f leases a second, %d MB", took.Seconds(), float64(held)/took.Seconds(), received/1e6)

	// The first minute has the end of what joining brings: topics and addresses.
	var bytes int64
	for range 2 {
		in, out := empty.Traffic()
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return ctx.Err()
		}
		nowIn, nowOut := empty.Traffic()
		bytes = nowIn - in + nowOut - out
		fmt.Printf("%d bytes in a minute\n", bytes)
	}
	t.check(bytes > 0 && bytes < idleBytes, "an idle pair exchanges %d bytes in a minute", bytes)
	return t.verdict()
}

func syncCharter(members int) (*notice.Notice, error) {
	hash, err := multihash.Sum(nil, multihash.SHA2_256, -1)
	if err != nil {
		return nil, err
	}
	c := &notice.Charter{
		Name: "trial", Version: 1, Anchor: cid.NewCidV1(cid.Raw, hash), Stewards: []string{"m0000"}, Quorum: 1,
		LeaseSeconds: 24 * 3600, LeaseCeilingSeconds: 48 * 3600, MaxBlobBytes: 1 << 30, OffersPerDay: 10,
	}
	for i := range members {
		c.Members = append(c.Members, notice.Member{
			Name:       fmt.Sprintf("m%04d", i),
			Publishing: notice.PublicKeyOf(syncKey(i, "publishing")),
			Node:       notice.PublicKeyOf(syncKey(i, "node")),
			Recovery:   notice.PublicKeyOf(syncKey(i, "recovery")),
		})
	}
	return notice.Sign(c, syncKey(0, "publishing"))
}

// syncHistory fills a ledger with the leases of every member.
func syncHistory(ctx context.Context, l *ledger.Ledger, members, leases int) error {
	var g errgroup.Group
	g.SetLimit(2 * syncParallel)
	for member := range members {
		g.Go(func() error {
			key := syncKey(member, "publishing")
			lease := &notice.Lease{Offers: []cid.Cid{l.Root()}, Heads: []notice.Head{}}
			h := notice.Header{Charter: l.Root(), Key: notice.PublicKeyOf(key), Time: time.Now().AddDate(-10, 0, 0)}
			var feed []*notice.Notice
			for range leases {
				h.Seq, h.Time = h.Seq+1, h.Time.Add(8*time.Hour)
				lease.Header, lease.NotAfter = h, h.Time.Add(24*time.Hour)
				n, err := notice.Sign(lease, key)
				if err != nil {
					return err
				}
				h.Prev = n.CID
				if feed = append(feed, n); len(feed) == syncTogether {
					if _, err := l.Add(feed...); err != nil {
						return err
					}
					feed = feed[:0]
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			_, err := l.Add(feed...)
			return err
		})
	}
	return g.Wait()
}

const (
	syncParallel = 4
	syncTogether = 5000 // leases that are stored at once
)
