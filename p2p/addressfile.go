package p2p

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"chorus/durable"

	"github.com/go-json-experiment/json"
)

// saveEvery bounds how often the file of addresses is written.
const saveEvery = 10 * time.Second

// KnownAddresses returns the multiaddrs in a file of [Config.Addresses], each ending in /p2p/…; none if it cannot be read.
func KnownAddresses(path string) (all []string) {
	told, err := readAddresses(path)
	if err != nil {
		return nil
	}
	for _, t := range told {
		if id, err := peerIDOf(t.Node); err == nil {
			for _, a := range t.Addrs {
				all = append(all, fmt.Sprintf("%s/p2p/%s", a, id))
			}
		}
	}
	return all
}

func readAddresses(path string) ([]memberAddrs, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxAddresses {
		return nil, fmt.Errorf("%s has %d bytes: %w", path, info.Size(), ErrTooLarge)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeAddresses(b)
}

// recall reads the addresses that a host wrote before it ended. They are hearsay: a member that names others is
// believed. A file that cannot be read is one without addresses, since nothing but time is lost with it.
func (h *Host) recall(path string) {
	told, err := readAddresses(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("addresses of members not read", "error", err)
		}
		return
	}
	for _, t := range told {
		id, err := peerIDOf(t.Node)
		if err != nil || t.Node == h.self || !h.gate.node(id) {
			continue
		}
		if addrs, err := parseAddrs(t.Addrs); err == nil {
			h.book.learn(id, addrs, false)
		}
	}
}

// remember writes the addresses that the host has heard of, some time after there are new ones and when it is closed.
func (h *Host) remember(path string) {
	var soon <-chan time.Time
	for {
		select {
		case <-h.heard:
			if soon == nil {
				soon = time.After(saveEvery)
			}
			continue
		case <-soon:
			soon = nil
		case <-h.ctx.Done():
		}
		if err := h.save(path); err != nil {
			h.log.Warn("addresses of members not written", "error", err)
		}
		if h.ctx.Err() != nil {
			return
		}
	}
}

func (h *Host) save(path string) error {
	all := []memberAddrs{}
	for _, m := range h.members.all() {
		a := memberAddrs{Node: m.node}
		for _, addr := range h.book.learned(m.id) {
			a.Addrs = append(a.Addrs, addr.String())
		}
		if len(a.Addrs) > 0 {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b memberAddrs) int { return compareNamed("", a.Node, "", b.Node) })
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, durable.Bytes(b))
}
