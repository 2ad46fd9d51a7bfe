package main

import (
	"testing"
	"time"

	"chorus/node"
)

func TestComplianceInWords(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	has := func(name string) node.Acknowledgement { return node.Acknowledgement{Member: name, Dropped: at} }
	for _, tt := range []struct {
		c       node.Compliance
		words   string
		waiting bool
	}{
		{node.Compliance{Members: []node.Acknowledgement{has("a"), has("b")}, Until: at}, "2 of 2 members have dropped it", false},
		{node.Compliance{Members: []node.Acknowledgement{has("a"), {Member: "b", Connected: true}}}, "1 of 2 members have dropped it; waiting for b", true},
		{
			node.Compliance{Members: []node.Acknowledgement{has("a"), {Member: "b", Synced: at}, {Member: "c"}}, Until: at.Add(time.Hour)},
			"1 of 3 members have dropped it; waiting for b (offline since 2026-03-01 12:00:00), c (offline); their lease ends at 2026-03-01 13:00:00", false,
		},
	} {
		if words, waiting := complianceWords(tt.c); words != tt.words || waiting != tt.waiting {
			t.Errorf("%q, %v, expected %q, %v", words, waiting, tt.words, tt.waiting)
		}
	}
}
