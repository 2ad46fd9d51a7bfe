package main

import (
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A peerList is a repeatable flag of nodes' addresses. What is none is a usage error, and not a node that nobody can reach.
type peerList []string

func (l *peerList) Set(text string) error {
	for _, addr := range strings.Split(text, ",") {
		if _, err := peer.AddrInfoFromString(addr); err != nil {
			return fmt.Errorf("want an address as `chorus up` prints it, /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo…: %w", err)
		}
		*l = append(*l, addr)
	}
	return nil
}

func (l *peerList) String() string { return strings.Join(*l, ",") }

// Type is how the help calls it.
func (l *peerList) Type() string { return "address" }
