package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"
)

// The keys of a home.
const (
	publishingKey = "publishing.key"
	nodeKey       = "node.key"
	recoveryKey   = "recovery.key"
	renewalKey    = "renewal.key"

	// What is added to the name of a key while it is to be replaced, and once it is.
	newKey = ".new"
	oldKey = ".old"

	revokersFile = "revokers.txt"
)

// KeyFiles returns the names of all key files in a home, those of keys that were replaced too: first its own, in the order in which to show
// them, and then what else lies there.
func (h Home) KeyFiles() ([]string, error) {
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return nil, err
	}
	order := []string{publishingKey, nodeKey, recoveryKey, renewalKey}
	var names []string
	for _, e := range entries {
		if name := e.Name(); !e.IsDir() && (strings.HasSuffix(name, ".key") || strings.Contains(name, ".key"+oldKey) || strings.HasSuffix(name, ".key"+newKey)) {
			names = append(names, name)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		place := func(name string) int {
			if i := slices.Index(order, name); i >= 0 {
				return i
			}
			return len(order)
		}
		return place(a) - place(b)
	})
	for i, name := range names {
		names[i] = h.path(name)
	}
	return names, nil
}

// Key files of a home, whether or not they are there.
func (h Home) PublishingKeyPath() string { return h.path(publishingKey) }
func (h Home) NodeKeyPath() string       { return h.path(nodeKey) }
func (h Home) RecoveryKeyPath() string   { return h.path(recoveryKey) }
func (h Home) RenewalKeyPath() string    { return h.path(renewalKey) }

// PublishingKey reads the key that signs this member's notices. The error wraps [ErrLocked] if it is protected.
func (h Home) PublishingKey() (ed25519.PrivateKey, error) { return loadKey(h.path(publishingKey)) }

// Member returns the home's public keys under a name, as a charter lists them. Without a recovery key in
// the home, none is named.
func (h Home) Member(name string) (notice.Member, error) {
	m := notice.Member{Name: name}
	for _, k := range []struct {
		file string
		key  *notice.PublicKey
	}{{publishingKey, &m.Publishing}, {nodeKey, &m.Node}, {recoveryKey, &m.Recovery}} {
		f, err := ReadKeyFile(h.path(k.file))
		if errors.Is(err, fs.ErrNotExist) && k.file == recoveryKey {
			continue
		} else if err != nil {
			return notice.Member{}, err
		}
		*k.key = f.Key
	}
	var err error
	m.Revokers, err = h.Revokers()
	return m, err
}

// Revokers returns the public halves of the revoker keys that were made for this member, for its card.
func (h Home) Revokers() ([]notice.PublicKey, error) {
	keys := []notice.PublicKey{}
	b, err := os.ReadFile(h.path(revokersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return keys, nil
	} else if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		k, err := notice.ParsePublicKey(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.path(revokersFile), err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, notice.CompareKey)
	return slices.Compact(keys), nil
}

// AddRevoker puts the public half of a revoker key on this member's card.
func (h Home) AddRevoker(k notice.PublicKey) error {
	keys, err := h.Revokers()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, k := range append(keys, k) {
		fmt.Fprintln(&b, k)
	}
	return writeFile(h.path(revokersFile), []byte(b.String()))
}

func createKey(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := NewKeyFile(KeyInfo{})
	if err != nil {
		return err
	}
	return f.Write(path)
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	f, err := ReadKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := f.Private()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// Replace puts the key file at path+".new" in the place of that at path, which stays beside it as path+".old": a charter may list it still.
// So may one that is there already, and it stays too, under another name.
func (h Home) Replace(path string) error {
	aside := path + oldKey
	if _, err := os.Stat(path); err == nil {
		for i := 1; ; i++ {
			other := fmt.Sprintf("%s.%d", aside, i)
			if _, err := os.Stat(other); err == nil {
				continue
			}
			if err := os.Rename(aside, other); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			break
		}
		if err := os.Rename(path, aside); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(path+newKey, path)
}

// Replaced returns the file of a publishing key that was replaced and stayed in the home. The error wraps [fs.ErrNotExist] if it is not there.
func (h Home) Replaced(key notice.PublicKey) (path string, f *KeyFile, err error) {
	paths, err := h.KeyFiles()
	if err != nil {
		return "", nil, err
	}
	for _, path := range paths {
		if !strings.HasPrefix(path, h.path(publishingKey+oldKey)) {
			continue
		}
		f, failed := ReadKeyFile(path)
		if failed != nil {
			err = errors.Join(err, failed)
		} else if f.Key == key {
			return path, f, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("the file of %s: %w", key, fs.ErrNotExist)
	}
	return "", nil, err
}

// Open implements [Control]. With the publishing key it opens the one that this replaced, if the charter lists that still. The error wraps
// [ErrPassphrase] if the passphrase is another.
func (n *Node) Open(_ context.Context, passphrase string) error {
	path := n.home.path(publishingKey)
	f, err := ReadKeyFile(path)
	if err != nil {
		return err
	}
	open := func(path string, f *KeyFile) error {
		err := f.Open(passphrase)
		if err == nil {
			var key ed25519.PrivateKey
			if key, err = f.Private(); err == nil {
				n.opened.Store(f.Key, key)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	err = open(path, f)
	if m, ok := n.ledger.Charter().Named(n.Member()); ok && m.Publishing != f.Key {
		if oldPath, old, missing := n.home.Replaced(m.Publishing); missing == nil {
			if failed := open(oldPath, old); !f.Protected() {
				err = failed // it is the one that was locked
			}
		}
	}
	if err != nil {
		return err
	}
	n.announce()
	return nil
}

// publishingKey returns the key that signs this member's notices: that of the file, which may have been replaced since
// the node started, or the one that was opened if it is protected.
func (n *Node) publishingKey() (ed25519.PrivateKey, error) {
	f, err := ReadKeyFile(n.home.path(publishingKey))
	if err != nil {
		return nil, err
	}
	return n.private(n.home.path(publishingKey), f)
}

// private returns the key of a file, also one that is protected and was opened. The error wraps [ErrLocked] if it was not.
func (n *Node) private(path string, f *KeyFile) (ed25519.PrivateKey, error) {
	if opened, ok := n.opened.Load(f.Key); ok {
		return opened.(ed25519.PrivateKey), nil
	}
	key, err := f.Private()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	}
	return key, nil
}

// ErrRemoved is returned when something is to be signed for a member that the charter does not list.
var ErrRemoved = errors.New("this member is not on the charter any more, so that no other node lets this one in or uses what it offers")

// ErrReplaced is returned when something is to be signed with a key that the member does not have any more.
var ErrReplaced = errors.New("this is not the member's publishing key any more: it was revoked, or the recovery key named another")

// belongs returns [ErrRemoved] if the charter does not list this node's member.
func (n *Node) belongs() error {
	if _, ok := n.ledger.Charter().Named(n.Member()); !ok {
		return ErrRemoved
	}
	return nil
}

// seated refuses to sign with a publishing key that counts for nothing.
func (n *Node) seated(key ed25519.PrivateKey) error {
	if err := n.belongs(); err != nil {
		return err
	}
	if member, role, ok := n.ledger.Seat(notice.PublicKeyOf(key)); !ok || member != n.Member() || role != ledger.RolePublishing {
		return fmt.Errorf("%s: %w", n.home.path(publishingKey), ErrReplaced)
	}
	return nil
}

// leaseKey returns the key that renews leases: the publishing key or, while that is locked, kept elsewhere or replaced by one that
// is, the one that was lent the power.
func (n *Node) leaseKey() (ed25519.PrivateKey, error) {
	key, err := n.publishingKey()
	if err == nil {
		err = n.seated(key)
	}
	if !errors.Is(err, ErrLocked) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrReplaced) {
		return key, err
	}
	lent, failed := loadKey(n.home.path(renewalKey))
	if errors.Is(failed, fs.ErrNotExist) {
		return nil, err
	} else if failed != nil {
		return nil, failed
	}
	if member, role, ok := n.ledger.Seat(notice.PublicKeyOf(lent)); !ok || member != n.Member() || role != ledger.RoleDelegate {
		return nil, fmt.Errorf("%w, and %s has not been lent the power to renew leases", err, n.home.path(renewalKey))
	}
	return lent, nil
}

// Learn brings the home's ledger, or its running node, what l has of this member's recovery key: which keys it named.
func (h Home) Learn(ctx context.Context, l *ledger.Ledger) (err error) {
	c, err := h.Config()
	if err != nil {
		return err
	}
	var all []*notice.Notice
	for k, role := range l.Keys(c.Member) {
		if role != ledger.RoleRecovery {
			continue
		}
		for after := uint64(0); ; {
			envelopes, last, err := l.Envelopes(k, after, notice.MaxCharterSize)
			if err != nil {
				return err
			}
			for _, e := range envelopes {
				n, err := notice.Parse(e)
				if err != nil {
					return err
				}
				all = append(all, n)
			}
			if len(envelopes) == 0 {
				break
			}
			after = last
		}
	}
	client, err := Dial(ctx, h)
	if err == nil {
		for _, n := range all {
			// That it goes on to others is not for now: they have it, and may not speak with this node's key any more.
			telling, cancel := context.WithTimeout(ctx, time.Second)
			_, err := client.Present(telling, n.Envelope)
			cancel()
			if err != nil && !errors.Is(err, ErrNotSpread) {
				return err
			}
		}
		return nil
	}
	if !errors.Is(err, ErrNotRunning) {
		return err
	}
	own, err := h.OpenLedger()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	_, err = own.Add(all...)
	return err
}

// KnownAddresses returns the multiaddrs of other members' nodes that this home's node has heard of.
func (h Home) KnownAddresses() []string { return p2p.KnownAddresses(h.addresses()) }
