package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chorus/durable"
	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"

	"github.com/ipfs/go-cid"
	"github.com/pelletier/go-toml/v2"
)

// A Home is a node's data folder. Nothing outside it belongs to the node.
//
//	config.toml         settings, for people to edit
//	charter.json        version 1 of the charter, which names the consortium; later versions are in the ledger
//	publishing.key      signs notices; whoever has it can publish and revoke
//	publishing.key.old  if there is one: what the publishing key has replaced, which the charter may still list
//	node.key            identifies the node on the network
//	recovery.key        names new keys and revokes when the others are lost; to be kept elsewhere
//	renewal.key         if there is one: renews leases while publishing.key is locked
//	revokers.txt        if there is one: the public halves of the keys that may revoke, for the charter
//	ledger.db           what is known and what was done
//	blobs/              experts and the anchor, by CID
//	anchor/             the anchor's folder, of files in blobs/
//	training/           checkpoints of training under way, and trained experts
//	invitations.json    who was invited with a code, and what came of it
//	joining.json        while this member asks to be admitted: the code, and what it has said so far
//	control.json        while a node runs: how the commands reach it
type Home string

func (h Home) path(name string) string { return filepath.Join(string(h), name) }

// Charter returns the name of the charter's file.
func (h Home) Charter() string { return h.path("charter.json") }

// Anchor returns the name of the anchor's folder.
func (h Home) Anchor() string { return h.path("anchor") }

// Training returns the name of the folder for checkpoints and trained experts.
func (h Home) Training() string { return h.path("training") }

// Blob returns the name of a blob's file, whether or not it is there.
func (h Home) Blob(id cid.Cid) string { return filepath.Join(h.blobs(), id.String()) }

func (h Home) config() string      { return h.path("config.toml") }
func (h Home) addresses() string   { return h.path("addresses.json") } // of members, as heard of
func (h Home) ledger() string      { return h.path("ledger.db") }
func (h Home) invitations() string { return h.path("invitations.json") }
func (h Home) joining() string     { return h.path("joining.json") }
func (h Home) blobs() string       { return h.path("blobs") }
func (h Home) control() string     { return h.path("control.json") }

// Config is config.toml.
type Config struct {
	Member string   `toml:"member" comment:"This member's name on the charter."`
	Listen []string `toml:"listen" comment:"Multiaddrs to listen on for other members."`
	Peers  []string `toml:"peers" comment:"Multiaddrs of other members, ending in /p2p/...; one that is online is enough."`
	API    string   `toml:"api" comment:"Address of the OpenAI-compatible endpoint for local programs."`

	Weights model.Weights `toml:"weights" comment:"How weights are held: packed (a copy in memory, the default), stored (in place, where memory is short: slower), bfloat16 (rounded to it), mixed (inputs rounded too: reads prompts twice as fast), int8 or int4 (smaller, faster, less exact)."`
}

// Errors about a home.
var (
	ErrNoHome    = errors.New("no data folder of a node here")
	ErrNoCharter = errors.New("the node has no charter yet")
)

// Init makes a home: its folder, keys and configuration. What exists is kept, so it can be
// repeated after an interruption. A recovery key is made once: whoever took it out of the home to keep it
// elsewhere does not find another in its place. Init refuses the home of another member, and a name that
// no charter accepts.
func (h Home) Init(c Config) error {
	if err := notice.CheckName(c.Member); err != nil {
		return err
	}
	keys := []string{publishingKey, nodeKey}
	switch old, err := h.Config(); {
	case err == nil && old.Member != c.Member:
		return fmt.Errorf("%s belongs to the member %s: use a new data folder", h, old.Member)
	case errors.Is(err, ErrNoHome):
		keys = append(keys, recoveryKey)
	case err != nil:
		return err
	}
	if err := os.MkdirAll(h.Training(), 0o700); err != nil {
		return err
	}
	for _, name := range keys {
		if err := createKey(h.path(name)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(h.config()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return h.SetConfig(c)
}

// SetConfig writes config.toml.
func (h Home) SetConfig(c Config) error {
	b, err := toml.Marshal(c)
	if err != nil {
		return err
	}
	return writeFile(h.config(), b)
}

// Config reads config.toml. A key that it does not know is an error that shows the line.
func (h Home) Config() (Config, error) {
	var c Config
	f, err := os.Open(h.config())
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s: %w", h, ErrNoHome)
	} else if err != nil {
		return c, err
	}
	defer f.Close()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(&c)
	if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) {
		return c, fmt.Errorf("%s: unknown setting:\n%s", h.config(), strict.String())
	} else if err != nil {
		return c, fmt.Errorf("%s: %w", h.config(), err)
	}
	if err := c.Weights.Check(); err != nil {
		return c, fmt.Errorf("%s: %w", h.config(), err)
	}
	return c, nil
}

// SetCharter stores a charter, all its versions from the first to one that lists this home's keys as those of its
// member. A home belongs to one consortium for ever.
func (h Home) SetCharter(chain ...*notice.Notice) error {
	var last *notice.Notice
	for _, n := range chain {
		if err := notice.VerifyCharter(n, last); err != nil {
			return err
		}
		last = n
	}
	if last == nil {
		return errors.New("no charter given")
	}
	c, err := h.Config()
	if err != nil {
		return err
	}
	me, err := h.Member(c.Member)
	if err != nil {
		return err
	}
	m, ok := last.Body.(*notice.Charter).Named(me.Name)
	if !ok || m.Publishing != me.Publishing || m.Node != me.Node || !me.Recovery.IsZero() && m.Recovery != me.Recovery {
		return fmt.Errorf("the charter does not list %s with this node's keys: give its stewards what `chorus init` printed", c.Member)
	}
	first := chain[0]
	if old, err := h.LoadCharter(); err == nil && old.CID != first.CID {
		return fmt.Errorf("%s already has another charter: use a new data folder", h)
	}
	if len(chain) > 1 {
		l, err := ledger.Open(h.ledger(), first)
		if err != nil {
			return err
		}
		_, err = l.Add(chain[1:]...)
		if err := errors.Join(err, l.Close()); err != nil {
			return err
		}
	}
	return writeFile(h.Charter(), first.Envelope) // last: with it the home has a charter
}

// LoadCharter reads the first version of the charter, by which the consortium is known. What holds now, the ledger has.
func (h Home) LoadCharter() (*notice.Notice, error) {
	n, err := ReadNotice(h.Charter())
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := h.Config(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", h, ErrNoCharter)
	} else if err != nil {
		return nil, err
	}
	if err := notice.VerifyCharter(n, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", h.Charter(), err)
	}
	return n, nil
}

// ReadNotice reads and verifies a notice from a file.
func ReadNotice(path string) (*notice.Notice, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > notice.MaxCharterSize {
		return nil, fmt.Errorf("%s: %w", path, notice.ErrTooLarge)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n, err := notice.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: not a notice as chorus writes it: %w", path, err)
	}
	return n, nil
}

// writeFile puts a small file in place, readable by its owner alone.
func writeFile(path string, b []byte) error { return durable.WriteFile(path, durable.Bytes(b)) }

// OpenLedger opens the home's ledger, which no running node may have open.
func (h Home) OpenLedger() (*ledger.Ledger, error) {
	charter, err := h.LoadCharter()
	if err != nil {
		return nil, err
	}
	return ledger.Open(h.ledger(), charter)
}
