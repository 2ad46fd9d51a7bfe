package node

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"chorus/ledger/notice"
)

func newHome(t *testing.T, name string) Home {
	t.Helper()
	h := Home(filepath.Join(t.TempDir(), "deep", name))
	if err := h.Init(Config{Member: name, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: []string{}, API: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	return h
}

func contents(t *testing.T, h Home) map[string]string {
	t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(string(h))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			b, err := os.ReadFile(h.path(e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(b)
		}
	}
	return all
}

func TestInitCanBeRepeatedAndKeepsWhatIsThere(t *testing.T) {
	h := newHome(t, "alpha")
	before := contents(t, h)
	if len(before) != 4 {
		t.Fatalf("a new home has %v", before)
	}
	if err := h.Init(Config{Member: "alpha", API: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	for name, b := range contents(t, h) {
		if before[name] != b {
			t.Errorf("%s changed", name)
		}
	}
	// An interruption left a key out.
	if err := os.Remove(h.path(nodeKey)); err != nil {
		t.Fatal(err)
	}
	if err := h.Init(Config{Member: "alpha"}); err != nil {
		t.Fatal(err)
	}
	// The recovery key was taken to a safe place.
	if err := os.Remove(h.path(recoveryKey)); err != nil {
		t.Fatal(err)
	}
	if err := h.Init(Config{Member: "alpha"}); err != nil {
		t.Fatal(err)
	}
	if m, err := h.Member("alpha"); err != nil || !m.Recovery.IsZero() {
		t.Errorf("without its recovery key the home has the keys %+v, error %v", m, err)
	}
	after := contents(t, h)
	if after[recoveryKey] != "" {
		t.Error("Init made another recovery key in place of the one that is kept elsewhere")
	}
	if after[publishingKey] != before[publishingKey] || after[nodeKey] == before[nodeKey] || after[nodeKey] == "" {
		t.Error("Init did not make the key that was missing, and only that")
	}
}

func TestInitRefusesTheHomeOfAnotherMember(t *testing.T) {
	h := newHome(t, "alpha")
	before := contents(t, h)
	err := h.Init(Config{Member: "beta"})
	if err == nil || !strings.Contains(err.Error(), "alpha") {
		t.Errorf("%v, expected an error that names alpha", err)
	}
	if after := contents(t, h); len(after) != len(before) || after["config.toml"] != before["config.toml"] {
		t.Error("it changed something")
	}
}

func TestInitRefusesNamesThatNoCharterAccepts(t *testing.T) {
	for _, name := range []string{"", "Clinic", "clinic a", "-clinic", "klinik_nord", strings.Repeat("c", 41)} {
		h := Home(filepath.Join(t.TempDir(), "home"))
		if err := h.Init(Config{Member: name}); !errors.Is(err, notice.ErrMalformed) {
			t.Errorf("%q: %v, expected %v", name, err, notice.ErrMalformed)
		}
		if _, err := os.Stat(string(h)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: it made a folder", name)
		}
	}
}

func TestFilesOfAHomeAreTheOwnersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes: run it on another system")
	}
	c := found(t, terms{}, "alpha")
	c.start("alpha", Options{Serve: true})
	h := c.homes["alpha"]
	for _, name := range []string{publishingKey, nodeKey, recoveryKey, "config.toml", "control.json", "ledger.db"} {
		info, err := os.Stat(h.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, expected 0600", name, info.Mode())
		}
	}
	if info, err := os.Stat(string(h)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the home has mode %v, %v, expected 0700", info.Mode(), err)
	}
}

func TestConfigRefusesUnknownSettingsAndShowsTheLine(t *testing.T) {
	h := newHome(t, "alpha")
	b, err := os.ReadFile(h.config())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ line, want string }{
		{"lisen = []", "unknown setting"},
		{"[extra]\nx = 1", "unknown setting"},
		{"api = ", "config.toml"},
		{`member = 7`, "config.toml"},
	} {
		if err := os.WriteFile(h.config(), append(slices.Clone(b), []byte(tt.line+"\n")...), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := h.Config()
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.want == "unknown setting" && !strings.Contains(err.Error(), strings.Split(tt.line, "\n")[0]) {
			t.Errorf("%q: %v", tt.line, err)
		}
	}
}

func TestConfigIsReadAsItWasWritten(t *testing.T) {
	h := newHome(t, "alpha")
	want := Config{Member: "alpha", Listen: []string{"/ip4/0.0.0.0/tcp/4101", "/ip6/::/tcp/4101"}, Peers: []string{"/ip4/192.0.2.1/tcp/1/p2p/x"}, API: "127.0.0.1:8470"}
	if err := h.SetConfig(want); err != nil {
		t.Fatal(err)
	}
	got, err := h.Config()
	if err != nil || got.Member != want.Member || got.API != want.API || !slices.Equal(got.Listen, want.Listen) || !slices.Equal(got.Peers, want.Peers) {
		t.Errorf("%+v, %v, expected %+v", got, err, want)
	}
}

func TestConfigRefusesUnknownFormsOfWeights(t *testing.T) {
	h := newHome(t, "alpha")
	if err := h.SetConfig(Config{Member: "alpha", Weights: "q8"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Config(); err == nil || !strings.Contains(err.Error(), `config.toml: weights are "q8", expected "packed"`) {
		t.Error(err)
	}
}

func TestAFolderThatIsNoHomeSaysSo(t *testing.T) {
	h := Home(t.TempDir())
	if _, err := h.Config(); !errors.Is(err, ErrNoHome) {
		t.Errorf("Config: %v, expected %v", err, ErrNoHome)
	}
	if _, err := h.LoadCharter(); !errors.Is(err, ErrNoHome) {
		t.Errorf("LoadCharter: %v, expected %v", err, ErrNoHome)
	}
	if _, err := New(t.Context(), h, Options{Log: discard()}); !errors.Is(err, ErrNoHome) {
		t.Errorf("New: %v, expected %v", err, ErrNoHome)
	}
	if _, err := New(t.Context(), newHome(t, "alpha"), Options{Log: discard()}); !errors.Is(err, ErrNoCharter) {
		t.Errorf("New of a home without a charter: %v, expected %v", err, ErrNoCharter)
	}
}

func TestSetCharterTakesOneCharterWithThisMember(t *testing.T) {
	alpha, beta, stranger := newHome(t, "alpha"), newHome(t, "beta"), newHome(t, "stranger")
	member := func(h Home, name string) notice.Member {
		m, err := h.Member(name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	dir, _ := testAnchor()
	anchor, err := alpha.ImportAnchor(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	charter := func(name string, quorum int, members ...notice.Member) *notice.Notice {
		key, err := alpha.PublishingKey()
		if err != nil {
			t.Fatal(err)
		}
		stewards := []string{"alpha"}
		if quorum == 2 {
			stewards = []string{"alpha", "beta"}
		}
		n, err := notice.Sign(&notice.Charter{
			Name: name, Version: 1, Anchor: anchor, Members: members, Stewards: stewards, Quorum: quorum,
			LeaseSeconds: 60, LeaseCeilingSeconds: 60, MaxBlobBytes: 1, OffersPerDay: 10,
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b := member(alpha, "alpha"), member(beta, "beta")
	good := charter("test", 1, a, b)

	if err := stranger.SetCharter(good); err == nil || !strings.Contains(err.Error(), "stranger") {
		t.Errorf("a home that is not on it: %v", err)
	}
	swapped := b
	swapped.Node = member(stranger, "x").Node
	if err := beta.SetCharter(charter("test", 1, a, swapped)); err == nil {
		t.Error("it took a charter with another node key for this member")
	}
	renamed := b
	renamed.Name = "gamma"
	if err := beta.SetCharter(charter("test", 1, a, renamed)); err == nil {
		t.Error("it took a charter with another name for this member")
	}
	if err := beta.SetCharter(charter("test", 2, a, b)); !errors.Is(err, notice.ErrSignature) {
		t.Errorf("without a quorum: %v, expected %v", err, notice.ErrSignature)
	}
	if _, err := beta.LoadCharter(); !errors.Is(err, ErrNoCharter) {
		t.Errorf("after refusals: %v, expected %v", err, ErrNoCharter)
	}
	if err := beta.SetCharter(good); err != nil {
		t.Fatal(err)
	}
	if err := beta.SetCharter(good); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := beta.SetCharter(charter("second", 1, a, b)); err == nil || !strings.Contains(err.Error(), "new data folder") {
		t.Errorf("a second one: %v", err)
	}
	if got, err := beta.LoadCharter(); err != nil || got.CID != good.CID {
		t.Errorf("the charter is %v, %v, expected %s", got, err, good.CID)
	}

	// One byte of the file is changed: in the payload, then in the signature.
	envelope, err := os.ReadFile(beta.Charter())
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{`"payload":"`, `"sig":"`} {
		at := bytes.Index(envelope, []byte(field)) + len(field) + 20
		tampered := slices.Clone(envelope)
		tampered[at] = map[bool]byte{true: 'B', false: 'A'}[tampered[at] == 'A']
		if err := os.WriteFile(beta.Charter(), tampered, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := beta.LoadCharter(); err == nil {
			t.Errorf("it read a charter with another %s", field)
		}
		if _, err := New(t.Context(), beta, Options{Log: discard()}); err == nil {
			t.Errorf("a node started with another %s", field)
		}
	}
	if err := os.WriteFile(beta.Charter(), bytes.Repeat([]byte(" "), notice.MaxCharterSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := beta.LoadCharter(); !errors.Is(err, notice.ErrTooLarge) {
		t.Errorf("a charter of too many bytes: %v, expected %v", err, notice.ErrTooLarge)
	}
}

func TestKeysThatAreNotOneEd25519KeyAreRefused(t *testing.T) {
	h := newHome(t, "alpha")
	good, err := os.ReadFile(h.path(publishingKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":      {},
		"no PEM":     []byte("secret"),
		"two blocks": append(slices.Clone(good), good...),
		"other type": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}),
		"no PKCS #8": pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: []byte{1}}),
		"cut short":  good[:len(good)/2],
	} {
		if err := os.WriteFile(h.path(publishingKey), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.PublishingKey(); err == nil {
			t.Errorf("%s: a key was read", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error %q shows the key", name, err)
		}
	}
}
