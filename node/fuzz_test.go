package node

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/invite"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/ipfs/go-cid"
)

func fuzzKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func fuzzCard(name string, first byte) notice.Member {
	key := func(b byte) notice.PublicKey { return notice.PublicKeyOf(fuzzKey(first + b)) }
	return notice.Member{Name: name, Publishing: key(0), Node: key(1), Recovery: key(2), Revokers: []notice.PublicKey{key(3)}}
}

// echo answers a command with what it was asked.
func echo[Q any]() http.Handler {
	return respond(discard(), func(_ *http.Request, q Q) (Q, error) { return q, nil })
}

// FuzzCommands holds that whatever is posted to the control surface is refused in words or understood, and then written in a way that is
// understood as the same.
func FuzzCommands(f *testing.F) {
	id, card := notice.Identity([32]byte{7}), fuzzCard("clinic", 10)
	privacy := &notice.Privacy{Unit: "document", Sampler: "poisson", Rate: 0.01, Noise: 1, Clip: 0.1, Steps: 200, StartNoise: 8, Delta: 1e-6, Epsilon: 8}
	header := notice.Header{Charter: id, Key: card.Publishing, Seq: 2, Prev: id, Time: time.Unix(1700000000, 0).UTC()}
	caution := Caution{WithinSeconds: 20, Alone: true}
	for _, q := range []any{
		Publication{Path: "/x.safetensors", Domain: "x", Licence: "CC0-1.0", Metrics: notice.Metrics{TrainTokens: 1}, Privacy: privacy, LeakReport: id},
		revokeRequest{Offer: id, Reason: "the end"}, revokeRequest{}, complianceRequest{id}, presentRequest{[]byte("{}")}, openRequest{"a passphrase"},
		Declaration{Delegation: &notice.Delegation{Header: header, Delegate: card.Node, Renew: true, Offers: []cid.Cid{id}, NotAfter: header.Time}},
		Declaration{Revocation: &notice.Revocation{Header: header, All: true, Through: notice.Through{Key: card.Node, Seq: 1}}},
		Export{Folder: "/out", Offers: []cid.Cid{id}}, signRequest{id, caution}, leaveRequest{"the end", caution}, cancelRequest{"clinic"},
		InviteRequest{Name: "clinic", Addresses: []string{"/ip4/192.0.2.7/tcp/4101"}},
		Change{Add: []notice.Member{card}, Remove: []string{"hub"}, Revokers: []Revoker{{"clinic", card.Node}}, Terms: Terms{Quorum: 2}, Caution: caution},
	} {
		b, err := json.Marshal(q, wire)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "2026-03-01T00:00:00.5+01:00")
	}
	f.Add([]byte(`{"offer":"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG","reason":"\ud800"}`), "")
	handlers := []http.Handler{
		echo[Publication](), echo[revokeRequest](), echo[complianceRequest](), echo[presentRequest](), echo[openRequest](), echo[Declaration](), echo[Export](),
		echo[signRequest](), echo[leaveRequest](), echo[cancelRequest](), echo[InviteRequest](), echo[Change](),
	}
	f.Fuzz(func(t *testing.T, body []byte, deadline string) {
		for _, h := range handlers {
			first := post(h, body, deadline)
			if first.Code == http.StatusBadRequest && first.Body.Len() > 0 {
				continue
			}
			var a reply[jsontext.Value]
			if err := json.Unmarshal(first.Body.Bytes(), &a, wire); err != nil || first.Code != http.StatusOK {
				t.Errorf("%q is answered with %d and %q, %v", body, first.Code, first.Body, err)
				continue
			}
			if second := post(h, a.Answer, ""); second.Code != http.StatusOK || !bytes.Equal(second.Body.Bytes(), first.Body.Bytes()) {
				t.Errorf("%q is understood as %s, which is answered with %d and %q", body, a.Answer, second.Code, second.Body)
			}
		}
	})
}

func post(h http.Handler, body []byte, deadline string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	if deadline != "" {
		r.Header.Set(deadlineHeader, deadline)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// FuzzHomeFiles holds that any bytes in the files of a home are refused by the file's name or read, and then written in a way that reads the same.
func FuzzHomeFiles(f *testing.F) {
	home := Home(f.TempDir())
	hub, clinic := fuzzCard("hub", 1), fuzzCard("clinic", 10)
	charter, err := notice.Sign(&notice.Charter{
		Name: "hearts", Version: 1, Anchor: cid.NewCidV1(cid.Raw, notice.Identity([32]byte{1}).Hash()), Members: []notice.Member{hub}, Stewards: []string{"hub"}, Quorum: 1,
		LeaseSeconds: 3600, LeaseCeilingSeconds: 3600, MaxBlobBytes: 1, OffersPerDay: 1,
	}, fuzzKey(1))
	if err != nil {
		f.Fatal(err)
	}
	l, err := ledger.Open(home.ledger(), charter)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	n := &Node{home: home, ledger: l, self: hub.Node}
	for _, do := range []func() error{
		func() error {
			return home.SetConfig(Config{Member: "hub", Listen: []string{"/ip4/0.0.0.0/tcp/4101"}, API: "127.0.0.1:1", Weights: "int8"})
		},
		func() error {
			return home.setJoining(joining{Code: "C", Card: clinic, Nonce: invite.Nonce{1}, Root: charter.CID})
		},
		func() error { return home.AddRevoker(clinic.Node) },
		func() error {
			v, err := openInvitations(n, home.invitations())
			if err != nil {
				return err
			}
			return v.update(func() error {
				used := &invitation{Guest: clinic.Node, Name: "clinic", Expires: now().Add(time.Hour), Commitment: &invite.Commitment{1}, Card: &clinic}
				v.all = append(v.all, used, &invitation{Guest: hub.Node, Name: "lab", Expires: now().Add(time.Hour), End: invite.Cancelled})
				return nil
			})
		},
	} {
		if err := do(); err != nil {
			f.Fatal(err)
		}
	}
	files := []string{home.config(), home.joining(), home.path(revokersFile), home.invitations()}
	for i, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), b)
	}
	f.Add(byte(3), []byte(`[null]`))
	f.Add(byte(3), []byte(`[{"name":"clinic","end":"waiting"}]`))
	f.Fuzz(func(t *testing.T, file byte, b []byte) {
		switch path := files[int(file)%len(files)]; path {
		case home.config():
			fileReadsBack(t, path, b, home.Config, home.SetConfig)
		case home.joining():
			fileReadsBack(t, path, b, home.loadJoining, home.setJoining)
		case home.path(revokersFile):
			fileReadsBack(t, path, b, home.Revokers, func(keys []notice.PublicKey) error {
				if len(keys) == 0 {
					return nil
				}
				return home.AddRevoker(keys[0])
			})
		case home.invitations():
			fileReadsBack(t, path, b, func() ([]Invitation, error) {
				v, err := openInvitations(n, path)
				if err != nil {
					return nil, err
				}
				n.invited = v
				all, err := n.Invitations(t.Context())
				return slices.DeleteFunc(all, func(i Invitation) bool { return now().After(i.Expires.Add(toldFor)) }), err
			}, func([]Invitation) error { return n.invited.update(func() error { return nil }) })
		}
	})
}

// fileReadsBack holds that a file of these bytes is refused by its name, or read and then written as what reads the same.
func fileReadsBack[T any](t *testing.T, path string, b []byte, read func() (T, error), write func(T) error) {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := read()
	if err != nil {
		if !strings.Contains(err.Error(), filepath.Base(path)) || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q is refused with %v, which does not name %s", b, err, path)
		}
		return
	}
	if err := write(v); err != nil {
		t.Errorf("%q is read as %+v, and not written: %v", b, v, err)
		return
	}
	told := func(v T) string {
		b, err := json.Marshal(v, wire)
		if err != nil {
			t.Errorf("%+v: %v", v, err)
		}
		return string(b)
	}
	if again, err := read(); err != nil || told(again) != told(v) {
		written, _ := os.ReadFile(path)
		t.Errorf("%q is read as %+v, and written as %q, which is read as %+v, %v", b, v, written, again, err)
	}
}
