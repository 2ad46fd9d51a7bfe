package node

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

// finding returns what a doctor's check found, as one text with its verdicts.
func finding(findings []Finding, check string) string {
	var all []string
	for _, f := range findings {
		if f.Check == check {
			all = append(all, string(f.Verdict)+": "+f.Text+" "+f.Do)
		}
	}
	return strings.Join(all, "\n")
}

func (c *consortium) doctor(n *Node) []Finding {
	c.Helper()
	f, err := n.Doctor(c.Context())
	c.must(err)
	return f
}

func TestTheDoctorFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	alpha := c.nodes["alpha"]
	expect := func(check string, words ...string) {
		t.Helper()
		got := finding(c.doctor(alpha), check)
		for _, w := range words {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q, expected %q", check, got, w)
			}
		}
	}
	expect("clock", "fine: ")
	expect("clocks", "fine: This clock agrees with those of all other members that this node has heard: 1")
	expect("ledger", "fine: ", " notices")
	expect("disk", "GB left")
	expect("keys", "fine: ")
	expect("recovery", "notable: The recovery key is still in the data folder", "Move ")
	expect("members", "notable: No address of gamma is known", "under peers in ")
	expect("reconciled", "fine: ")
	if got := finding(c.doctor(alpha), "lease"); got != "" {
		t.Errorf("a member without experts has a finding about leases: %q", got)
	}
	if got := finding(c.doctor(c.nodes["beta"]), "lease"); !strings.Contains(got, "fine: This member's lease is in force until") {
		t.Errorf("lease: %q", got)
	}

	c.must(os.Remove(c.homes["alpha"].path(recoveryKey)))
	expect("recovery", "fine: ")
	c.must(os.Chmod(c.homes["alpha"].path(publishingKey), 0o644))
	expect("keys", "wrong: Other users", "chmod 600 ")
	c.must(os.Chmod(c.homes["alpha"].path(publishingKey), 0o600))
	for _, name := range []string{publishingKey + oldKey + ".1", renewalKey, "my revoker.key"} {
		aside := c.homes["alpha"].path(name)
		c.must(os.WriteFile(aside, nil, 0o640))
		expect("keys", "wrong: Other users of this machine may read or change "+aside)
		c.must(os.Remove(aside))
	}
	expect("keys", "fine: ")
	path := c.homes["alpha"].path(nodeKey)
	c.must(os.Rename(path, path+".old"))
	c.must(createKey(path))
	expect("keys", "wrong: The node key here is not this member's any more", "chorus key rotate --node")
	c.must(os.Rename(path+".old", path))
	folder := t.TempDir()
	c.must(alpha.RecordExport(t.Context(), Export{Folder: folder, Offers: []cid.Cid{offer}}))
	c.revoke("beta", offer)
	c.await("the end of the expert", gone(offer, blob), "alpha")
	expect("exports", "wrong: "+folder, "cats of beta", "Delete "+folder)
	expect("mixture", "notable: The anchor serves alone: no expert stands")
	expect("experts", "fine: Experts that are revoked, and neither used nor kept here: 1")
	s, err := alpha.Status(t.Context())
	c.must(err)
	if got := finding(s.Findings, "exports"); !strings.Contains(got, folder) || finding(s.Findings, "clock") != "" || finding(s.Findings, "members") != "" {
		t.Errorf("the status says %+v: it lacks the export, or has what is fine or slow", s.Findings)
	}

	c.down("beta")
	tick := time.NewTicker(5 * time.Millisecond) // a node announces no loss of a connection
	defer tick.Stop()
	for end := time.Now().Add(patience); len(alpha.Host().Connected()) > 0 && time.Now().Before(end); <-tick.C {
	}
	expect("members", "beta is not reached at /ip4/127.0.0.1/tcp/", "nothing listens there", "Ask beta whether its node is up")
	feed := c.sign("alpha", 9, c.charter.CID, &notice.Lease{Offers: []cid.Cid{}, Heads: []notice.Head{}, NotAfter: now().Add(time.Hour)})
	_, err = alpha.Ledger().Add(feed)
	c.must(err)
	expect("feed", "wrong: Notices 1 to 8 of this member's own feed are missing")
	c.down("alpha")

	l, err := c.homes["alpha"].OpenLedger()
	c.must(err)
	c.must(l.Observe(now().Add(time.Hour)))
	defer l.Close()
	if got := finding(OfflineDoctor(t.Context(), c.homes["alpha"], l, "alpha"), "clock"); !strings.Contains(got, "wrong: The clock cannot be trusted, so no lease can be judged: clock is behind") {
		t.Errorf("clock: %q", got)
	}
}

func TestTheDoctorSaysHowLeasesAreRenewedWhileTheKeyIsLocked(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	path := c.homes["alpha"].PublishingKeyPath()
	f, err := ReadKeyFile(path)
	c.must(err)
	c.must(f.Protect("open sesame"))
	c.must(f.Write(path))
	alpha := c.nodes["alpha"]
	if got := finding(c.doctor(alpha), "keys"); !strings.Contains(got, "no renewal key is here") || !strings.Contains(got, "`chorus key new renewal`") {
		t.Errorf("keys: %q", got)
	}
	c.must(createKey(c.homes["alpha"].RenewalKeyPath()))
	if got := finding(c.doctor(alpha), "keys"); !strings.Contains(got, "has not been lent") || !strings.Contains(got, "`chorus key delegate renewal --renew --until DATE`") {
		t.Errorf("keys: %q", got)
	}
	if err := alpha.Open(t.Context(), "open barley"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	c.must(alpha.Open(t.Context(), "open sesame"))
	if got := finding(c.doctor(alpha), "keys"); strings.Contains(got, "locked") {
		t.Errorf("keys: %q", got)
	}
	if err := alpha.Open(t.Context(), "open barley"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase once it is open: %v", err)
	}
}

func TestTheDoctorTellsAWrongClockFromAWrongPeer(t *testing.T) {
	heard := func(name string, ahead float64) MemberStatus {
		return MemberStatus{Name: name, Synced: time.Now(), Ahead: ahead}
	}
	for name, tt := range map[string]struct {
		members []MemberStatus
		want    []string
	}{
		"nobody was heard":        {[]MemberStatus{{Name: "a", Ahead: 500}}, nil},
		"all agree":               {[]MemberStatus{heard("a", 1), heard("b", -2)}, []string{"fine: "}},
		"one is off":              {[]MemberStatus{heard("a", 0), heard("b", 60), heard("c", 0)}, []string{"notable: The clock of b is 1m0s ahead of this one."}},
		"one is beyond tolerance": {[]MemberStatus{heard("a", 0), heard("b", -300), heard("c", 0)}, []string{"wrong: The clock of b is 5m0s behind this one."}},
		"it is this one":          {[]MemberStatus{heard("a", 300), heard("b", 301), heard("c", 0)}, []string{"wrong: This machine's clock differs from those of 2 of 3 members", "NTP"}},
	} {
		found := checkClocks(&examination{status: Status{Members: tt.members}})
		for i := range found {
			found[i].Check = "clocks"
		}
		got := finding(found, "clocks")
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q, expected %q", name, got, w)
			}
		}
		if tt.want == nil && got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestTheDoctorSaysWhatToOpen(t *testing.T) {
	for cause, want := range map[string]string{
		"dial tcp 192.0.2.7:4101: connect: connection refused":       "nothing listens there",
		"context deadline exceeded":                                  "must open that port",
		"dial tcp4 0.0.0.0:0->192.0.2.7:4101: i/o timeout":           "must open that port",
		"dial tcp 10.0.0.7:4101: connect: network is unreachable":    "reached from outside",
		"failed to negotiate security protocol: peer id mismatch: …": "another node is there",
		"the moon is wrong": "the moon is wrong",
	} {
		text, do := diagnose("beta", p2p.Attempt{Address: "/ip4/192.0.2.7/tcp/4101", Err: errors.New(cause)})
		if !strings.Contains(text+do, want) || !strings.Contains(text, "/ip4/192.0.2.7/tcp/4101") || do == "" {
			t.Errorf("%s: %s %s, expected %q", cause, text, do, want)
		}
	}
}

func TestAnExpertThatIsNotUsedSaysWhy(t *testing.T) {
	until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for want, e := range map[string]Expert{
		"leased until 2026-03-01 12:00:00":               {State: ledger.Active, Until: until},
		"lapsed: its lease ended at 2026-03-01 12:00:00": {State: ledger.Lapsed, Until: until},
		"lapsed: under no lease that counts":             {State: ledger.Lapsed},
		"refused: it is a cat":                           {State: ledger.Active, Refusal: "it is a cat"},
		"revoked: withdrawn":                             {State: ledger.Revoked, Reason: "withdrawn"},
	} {
		if got := e.Words(); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	for _, state := range []ledger.State{ledger.Suspended, ledger.Left, ledger.Excess} {
		x := &examination{status: Status{Experts: []Expert{{Member: "beta", Domain: "cats", State: state}}}}
		if got := checkExperts(x); len(got) != 1 || got[0].Verdict != Notable || !strings.Contains(got[0].Text, "cats of beta is not used, since it is "+string(state)+": ") {
			t.Errorf("%s: %+v", state, got)
		}
	}
}
